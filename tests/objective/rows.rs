//! Made-up steps for any objective: groups with whatever its entry says that rows hold.

use asft::data::{Annotation, Annotations, AnswerAnnotations, ByRole, Reference, Role, Roles, StepTotals};
use asft::objective::registry::Entry;
use asft::objective::{GroupLogps, Parameters, Scored, Statistics};

/// One group with everything that an objective may ask for.
#[derive(Clone, Debug, Default)]
pub struct Row {
    pub prompt: Option<Vec<f32>>,
    pub answers: ByRole<Option<Vec<f32>>>,
    /// `log sum p^2` of every token.
    pub squares: ByRole<Vec<f32>>,
    pub given: Annotations,
}

impl Row {
    /// The same with another answer in this role.
    pub fn with(mut self, role: Role, logps: &[f32]) -> Self {
        self.squares[role] = vec![-0.5; logps.len()];
        self.answers[role] = Some(logps.to_vec());
        self
    }

    /// The same with a reference that gives each answer's tokens `shift` less.
    pub fn referred(mut self, shift: f32) -> Self {
        for (role, logps) in self.answers.iter() {
            if let Some(logps) = logps {
                let tokens = logps.iter().map(|logp| logp - shift).collect();
                self.given.answers[role].references = vec![Reference::Tokens(tokens)];
            }
        }
        self
    }

    /// What an objective sees of it.
    pub fn view(&self) -> GroupLogps<'_> {
        let answers = ByRole::from_fn(|role| {
            let logps = self.answers[role].as_deref()?;
            let squares = &self.squares[role];
            let statistics = Statistics { log_sum_squares: squares, entropy: squares, mean_logit: squares };
            Some(Scored {
                statistics: Some(statistics),
                ..Scored::new(logps).with(&self.given.answers[role])
            })
        });
        GroupLogps { prompt: self.prompt.as_deref().map(Scored::new), answers, given: &self.given }
    }

    /// With whatever the entry wants beside, the same for every token; `high` chooses between two values each.
    pub fn annotated(mut self, entry: &Entry, high: bool) -> Self {
        let tokens = |logps: &Option<Vec<f32>>, value: f32| {
            logps.as_ref().map(|logps| vec![value; logps.len()].into_boxed_slice())
        };
        for annotation in entry.annotations {
            match annotation {
                Annotation::Label => self.given.label = Some(high),
                Annotation::SoftLabel => self.given.soft_label = Some(if high { 1.0 } else { 0.3 }),
                Annotation::PromptEmbedding => {
                    let embedding: [f32; 3] = if high { [0.3, -1.0, 0.2] } else { [0.0, 0.0, 1.0] };
                    self.given.prompt_embedding = Some(embedding.into());
                }
                Annotation::Confidence => self.given.confidence = Some(if high { -1.5 } else { -40.0 }),
                Annotation::Score | Annotation::Weights | Annotation::Advantages | Annotation::OldLogps => {
                    for (role, logps) in self.answers.iter() {
                        let given: &mut AnswerAnnotations = &mut self.given.answers[role];
                        match annotation {
                            Annotation::Score => given.score = Some(if high { 1.0 } else { 0.25 }),
                            Annotation::Weights => {
                                given.weights = tokens(logps, if high { 1.0 } else { 0.5 })
                            }
                            Annotation::Advantages => {
                                given.advantages = tokens(logps, if high { 3.0 } else { -0.5 })
                            }
                            _ => given.old_logps = tokens(logps, if high { -0.1 } else { -2.0 }),
                        }
                    }
                }
            }
        }
        self
    }
}

/// A row of the entry's answers with these log-probs in turn, and a prompt.
pub fn row(entry: &Entry, answers: &[&[f32]], shift: f32, high: bool) -> Row {
    let mut row = Row { prompt: Some(vec![-0.7, -0.1]), ..Row::default() };
    for (role, logps) in entry.answers.iter().zip(answers.iter().cycle()) {
        row = row.with(role, logps);
    }
    // What an objective that mixes rows sees of two of them.
    if entry.build(&Parameters::default()).unwrap().mixing().is_some() {
        row = row.with(Role::Mixed, answers[answers.len() - 1]);
    }
    row.referred(shift).annotated(entry, high)
}

/// The totals of a step of these rows.
pub fn totals(rows: &[Row]) -> StepTotals {
    let mut totals = StepTotals { groups: rows.len(), ..StepTotals::default() };
    for row in rows {
        totals.prompt_tokens += row.prompt.as_ref().map_or(0, Vec::len);
        for role in Roles::ALL.iter() {
            totals.answer_tokens[role] += row.answers[role].as_ref().map_or(0, Vec::len);
        }
    }
    totals
}

/// All rows as an objective sees them.
pub fn views(rows: &[Row]) -> Vec<GroupLogps<'_>> {
    rows.iter().map(Row::view).collect()
}
