//! The objectives by name: how to list, explain, check and build them.
//!
//! Boundary: knows nothing of any one objective beyond its [`Entry`], which lives in the objective's own file.

use super::combination::Combination;
use super::parameters::{Parameter, Parameters, Range, flag};
use super::{Inputs, Objective, ObjectiveError, asft, ift, orpo, pairwise, sft, sftmix, step, unpaired};
use crate::data::{Annotation, Role, Roles};

/// Every objective, in the order of listings.
pub static OBJECTIVES: &[&Entry] = &[
    &asft::ENTRY, // one line each
    &sft::ENTRY,
    &sftmix::ENTRY,
    &ift::ENTRY,
    &orpo::ENTRY,
    &pairwise::simpo::ENTRY,
    &pairwise::cpo::ENTRY,
    &pairwise::alphapo::ENTRY,
    &pairwise::tpo::ENTRY,
    &pairwise::tpo_l::ENTRY,
    &pairwise::slic_hf::ENTRY,
    &pairwise::dpo::ENTRY,
    &pairwise::robust::ENTRY,
    &pairwise::ipo::ENTRY,
    &pairwise::hinge::ENTRY,
    &pairwise::sigmoid_norm::ENTRY,
    &pairwise::exo::ENTRY,
    &pairwise::nca::ENTRY,
    &pairwise::bco::ENTRY,
    &pairwise::sppo::ENTRY,
    &pairwise::apo_zero::ENTRY,
    &pairwise::apo_down::ENTRY,
    &pairwise::discopop::ENTRY,
    &pairwise::dpop::ENTRY,
    &pairwise::cal_dpo::ENTRY,
    &pairwise::rpo::ENTRY,
    &pairwise::gdpo::ENTRY,
    &pairwise::gipo::ENTRY,
    &pairwise::ada_dpo::ENTRY,
    &pairwise::mrpo::ENTRY,
    &pairwise::bmc::ENTRY,
    &pairwise::tis_dpo::ENTRY,
    &step::aot::ENTRY,
    &step::aot_unpaired::ENTRY,
    &step::relative_po::ENTRY,
    &unpaired::kto::ENTRY,
    &unpaired::apo_zero_unpaired::ENTRY,
    &unpaired::uft::ENTRY,
    &unpaired::apa::ENTRY,
    &unpaired::awr::ENTRY,
];

/// What a listing says about an objective, and how to make one.
pub struct Entry {
    /// In snake case.
    pub name: &'static str,
    /// Other names, among them TRL's `loss_type`.
    pub aliases: &'static [&'static str],
    /// The loss of one group, on one line.
    pub formula: &'static str,
    /// When to use it: completes "use it when ...".
    pub when: &'static str,
    /// Whether a reference model's log-probs are needed.
    pub reference: bool,
    /// How many reference models it can use; 0 without [`Entry::reference`].
    pub max_references: usize,
    /// The answers that every row of the data must have.
    pub answers: Roles,
    /// What every row must say beside them.
    pub annotations: &'static [Annotation],
    /// What it takes.
    pub parameters: &'static [&'static dyn Parameter],
    /// For parameters that users of other programs try here: (name, what to use instead).
    pub advice: &'static [(&'static str, &'static str)],
    /// The default peak learning rate.
    pub learning_rate: LearningRate,
    /// From resolved parameters; checks what concerns several of them at once.
    pub(super) construct: fn(&Parameters) -> Result<Box<dyn Objective>, ObjectiveError>,
}

/// A default learning rate and where it comes from.
#[derive(Clone, Copy, Debug)]
pub struct LearningRate {
    /// Peak learning rate of AdamW for full fine-tuning.
    pub value: f64,
    /// Who uses it, for what.
    pub source: &'static str,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Entry {
    /// What most entries have in common; name, formula, when, parameters, learning rate and construct are each one's own.
    pub const REFERENCE_FREE: Entry = Entry {
        name: "",
        aliases: &[],
        formula: "",
        when: "",
        reference: false,
        max_references: 0,
        answers: Roles::PAIR,
        annotations: &[],
        parameters: &[],
        advice: &[],
        learning_rate: LearningRate { value: 0.0, source: "" },
        construct: |_| unreachable!("every entry has its own"),
    };

    /// The parameters in use: what was typed, checked, and the defaults for the rest of what the objective has.
    ///
    /// # Errors
    ///
    /// [`ObjectiveError::NotAParameter`], [`ObjectiveError::OutOfRange`] and [`ObjectiveError::NotAChoice`].
    pub fn resolve(&self, typed: &Parameters) -> Result<Parameters, ObjectiveError> {
        for name in typed.typed() {
            if !self.has(name) {
                let advice = self.advice_for(name);
                return Err(ObjectiveError::NotAParameter { objective: self.name, parameter: name, advice });
            }
        }
        let mut resolved = *typed;
        for parameter in self.parameters {
            parameter.resolve(self.name, &mut resolved)?;
        }
        Ok(resolved)
    }

    /// Makes the objective.
    ///
    /// # Errors
    ///
    /// As [`Entry::resolve`], and what concerns several parameters at once.
    pub fn build(&self, typed: &Parameters) -> Result<Box<dyn Objective>, ObjectiveError> {
        (self.construct)(&self.resolve(typed)?)
    }

    fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }

    /// What was typed, as far as it concerns this objective.
    fn own(&self, typed: &Parameters) -> Parameters {
        let mut own = *typed;
        own.retain(|name| self.has(name));
        own
    }

    fn has(&self, parameter: &str) -> bool {
        self.parameters.iter().any(|own| own.name() == parameter)
    }

    fn advice_for(&self, parameter: &str) -> String {
        if let Some((_, advice)) = self.advice.iter().find(|(name, _)| *name == parameter) {
            return (*advice).to_owned();
        }
        let own: Vec<String> = self.parameters.iter().map(|parameter| flag(parameter.name())).collect();
        const SHOWN: usize = 4;
        let owners: Vec<&str> =
            OBJECTIVES.iter().filter(|entry| entry.has(parameter)).map(|entry| entry.name).collect();
        let mut shown = owners[..owners.len().min(SHOWN)].join(", ");
        if owners.len() > SHOWN {
            shown.push_str(&format!(" and {} more", owners.len() - SHOWN));
        }
        format!("it takes {}; {} belongs to {shown}", own.join(", "), flag(parameter))
    }
}

/// The objective called `name`, by its own name or an alias, in any case, `-` equal to `_`.
///
/// # Errors
///
/// [`ObjectiveError::UnknownObjective`], with the nearest name.
pub fn find(name: &str) -> Result<&'static Entry, ObjectiveError> {
    let wanted = name.trim().to_lowercase().replace('-', "_");
    let names = || OBJECTIVES.iter().flat_map(|entry| entry.names().map(move |name| (name, *entry)));
    if let Some((_, entry)) = names().find(|(name, _)| *name == wanted) {
        return Ok(entry);
    }
    let near = names().map(|(name, _)| (strsim::damerau_levenshtein(name, &wanted), name)).min();
    // With a third of the letters wrong it is another word: `ppo` is no misspelt `dpo`.
    let suggestion = near.filter(|(distance, name)| distance * 3 < name.len()).map(|(_, name)| name);
    Err(ObjectiveError::UnknownObjective { typed: name.to_owned(), suggestion })
}

/// Makes the objective called `name`, or the weighted sum so written, with the parameters as typed.
///
/// # Errors
///
/// As [`select`] and [`Selection::build`].
pub fn build(name: &str, parameters: &Parameters) -> Result<Box<dyn Objective>, ObjectiveError> {
    select(name)?.build(parameters)
}

/// One objective, or several with their weights: what `--objective` names.
#[derive(Clone, Debug)]
pub struct Selection {
    parts: Vec<(&'static Entry, f64)>,
    /// Whether weights were given; without, there is one part.
    weighted: bool,
}

/// The objective or the sum of objectives that is written as `name` or `name:weight,name:weight`.
///
/// # Errors
///
/// [`ObjectiveError::UnknownObjective`]; [`ObjectiveError::Sum`] for a weight that is none, a name that comes twice, or
/// objectives that learn from different kinds of rows.
pub fn select(typed: &str) -> Result<Selection, ObjectiveError> {
    if !typed.contains([':', ',']) {
        return Ok(Selection { parts: vec![(find(typed)?, 1.0)], weighted: false });
    }
    let wrong = |problem: String| ObjectiveError::Sum { typed: typed.to_owned(), problem };
    let mut parts: Vec<(&'static Entry, f64)> = Vec::new();
    for part in typed.split(',') {
        let (name, weight) = part.split_once(':').unwrap_or((part, "1"));
        let entry = find(name)?;
        let value: f64 = weight.trim().parse().map_err(|_| wrong(format!("{weight:?} is no number")))?;
        if !Range::SHARE.contains(value) {
            return Err(wrong(format!("the weight of {name} is {weight}, but it must be {}", Range::SHARE)));
        }
        if parts.iter().any(|(other, _)| other.name == entry.name) {
            return Err(wrong(format!("{} is named twice", entry.name)));
        }
        parts.push((entry, value));
    }
    let paired = |entry: &Entry| entry.answers.contains(Role::Chosen);
    if let Some((other, _)) = parts.iter().find(|(entry, _)| paired(entry) != paired(parts[0].0)) {
        let (one, other) = (parts[0].0.name, other.name);
        return Err(wrong(format!("{one} and {other} learn from different kinds of rows")));
    }
    Ok(Selection { parts, weighted: true })
}

impl Selection {
    /// The canonical name: `dpo`, `dpo:0.8,sft:0.2`.
    pub fn name(&self) -> String {
        let part = |(entry, weight): &(&Entry, f64)| match self.weighted {
            true => format!("{}:{weight}", entry.name),
            false => entry.name.to_owned(),
        };
        self.parts.iter().map(part).collect::<Vec<_>>().join(",")
    }

    /// The objectives, in the order in which they were named.
    pub fn entries(&self) -> impl Iterator<Item = &'static Entry> {
        self.parts.iter().map(|(entry, _)| *entry)
    }

    /// The answers that every row of the data must have.
    pub fn answers(&self) -> Roles {
        self.entries().fold(Roles::NONE, |roles, entry| roles.union(entry.answers))
    }

    /// What every row must say beside them.
    pub fn annotations(&self) -> Vec<Annotation> {
        let mut all: Vec<Annotation> =
            self.entries().flat_map(|entry| entry.annotations.iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// How many reference models can be used.
    pub fn max_references(&self) -> usize {
        self.entries().map(|entry| entry.max_references).max().unwrap_or(0)
    }

    /// The default peak learning rate: the smallest of the objectives'.
    pub fn learning_rate(&self) -> LearningRate {
        let rates = self.entries().map(|entry| entry.learning_rate);
        let smallest = rates.min_by(|a, b| a.value.total_cmp(&b.value));
        smallest.expect("a selection has an objective")
    }

    /// The parameters in use. Those of a sum go to every objective that has them; since each has defaults of its own, only
    /// what was typed is given back then.
    ///
    /// # Errors
    ///
    /// As [`Entry::resolve`]; of a sum, a parameter that none of its objectives has.
    pub fn resolve(&self, typed: &Parameters) -> Result<Parameters, ObjectiveError> {
        if let [(entry, _)] = self.parts[..] {
            return entry.resolve(typed);
        }
        for name in typed.typed() {
            if !self.entries().any(|entry| entry.has(name)) {
                let advice = self.parts[0].0.advice_for(name);
                let objective = self.parts[0].0.name;
                return Err(ObjectiveError::NotAParameter { objective, parameter: name, advice });
            }
        }
        self.entries().try_for_each(|entry| entry.resolve(&entry.own(typed)).map(drop))?;
        Ok(*typed)
    }

    /// Makes the objective.
    ///
    /// # Errors
    ///
    /// As [`Selection::resolve`] and [`Entry::build`]; [`ObjectiveError::Sum`] for an objective that changes what the model
    /// is given, which the others of the sum would see too.
    pub fn build(&self, typed: &Parameters) -> Result<Box<dyn Objective>, ObjectiveError> {
        self.resolve(typed)?;
        let built = self.parts.iter().map(|(entry, weight)| Ok((entry.build(&entry.own(typed))?, *weight)));
        let mut parts: Vec<(Box<dyn Objective>, f64)> = built.collect::<Result<_, ObjectiveError>>()?;
        let alone = |(part, _): &&(Box<dyn Objective>, f64)| self.weighted && part.inputs() != Inputs::TOKENS;
        if let Some((part, _)) = parts.iter().find(alone) {
            let problem =
                format!("{} changes what the model is given, so it is no part of a sum", part.name());
            return Err(ObjectiveError::Sum { typed: self.name(), problem });
        }
        match parts.pop() {
            Some((alone, _)) if !self.weighted => Ok(alone),
            last => Ok(Box::new(Combination::new(self.name(), parts.into_iter().chain(last).collect()))),
        }
    }
}
