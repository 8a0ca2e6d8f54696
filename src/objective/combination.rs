//! Weighted sums of objectives: `--objective dpo:0.8,sft:0.2`, TRL's list of loss types with `loss_weights`.
//!
//! Loss and slopes are the sums of the parts'. A metric that several parts have is the first's.

use super::{Coupling, GroupLogps, GroupLoss, Metrics, Objective, ReferenceNeed};
use crate::data::{Mixing, Roles, Spans, StepTotals};

/// A weighted sum.
#[derive(Debug)]
pub struct Combination {
    name: String,
    parts: Vec<(Box<dyn Objective>, f64)>,
}

impl Combination {
    /// The sum of these objectives; at least one.
    pub(super) fn new(name: String, parts: Vec<(Box<dyn Objective>, f64)>) -> Self {
        Self { name, parts }
    }

    fn objectives(&self) -> impl Iterator<Item = &dyn Objective> {
        self.parts.iter().map(|(part, _)| part.as_ref())
    }

    /// Adds what `add` adds to each part's metrics, unless an earlier part has given that name.
    fn merge(&self, metrics: &mut Metrics, mut add: impl FnMut(&dyn Objective, &mut Metrics)) {
        let mut all = Metrics::new();
        for part in self.objectives() {
            let mut own = Metrics::new();
            add(part, &mut own);
            all.merge_new(&own);
        }
        metrics.merge(&all);
    }
}

impl Objective for Combination {
    fn name(&self) -> &str {
        &self.name
    }

    fn coupling(&self) -> Coupling {
        self.objectives().map(|part| part.coupling()).max().unwrap_or(Coupling::Sequence)
    }

    fn spans(&self) -> Spans {
        self.objectives().fold(Spans::default(), |all, part| {
            let spans = part.spans();
            Spans { prompt: all.prompt || spans.prompt, answers: all.answers.union(spans.answers) }
        })
    }

    fn learns_from(&self) -> Roles {
        self.objectives().fold(Roles::NONE, |all, part| all.union(part.learns_from()))
    }

    fn mixing(&self) -> Option<Mixing> {
        self.objectives().find_map(|part| part.mixing())
    }

    fn reference(&self) -> ReferenceNeed {
        self.objectives().map(|part| part.reference()).max().unwrap_or_default()
    }

    fn statistics(&self) -> bool {
        self.objectives().any(|part| part.statistics())
    }

    fn loss_at_reference(&self) -> Option<f64> {
        self.parts.iter().map(|(part, weight)| Some(weight * part.loss_at_reference()?)).sum()
    }

    fn evaluate(&self, groups: &[GroupLogps], totals: &StepTotals) -> Vec<GroupLoss> {
        let mut losses = vec![GroupLoss::default(); groups.len()];
        for (part, weight) in &self.parts {
            for (loss, more) in losses.iter_mut().zip(part.evaluate(groups, totals)) {
                loss.add(&more, *weight);
            }
        }
        losses
    }

    fn metrics(&self, group: &GroupLogps, totals: &StepTotals, metrics: &mut Metrics) {
        self.merge(metrics, |part, own| part.metrics(group, totals, own));
    }

    fn step_metrics(&self, groups: &[GroupLogps], totals: &StepTotals, metrics: &mut Metrics) {
        self.merge(metrics, |part, own| part.step_metrics(groups, totals, own));
    }
}
