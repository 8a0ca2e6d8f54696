//! The objectives by name: how to list, explain, check and build them.
//!
//! Boundary: knows nothing of any one objective beyond its [`Entry`], which lives in the objective's own file.

use super::parameters::{Parameter, Parameters, alternatives, flag};
use super::{Objective, ObjectiveError, asft, dpo, orpo, sft};

/// Every objective, in the order of listings.
pub static OBJECTIVES: &[&Entry] = &[
    &asft::ENTRY, // one line each
    &sft::ENTRY,
    &orpo::ENTRY,
    &dpo::ENTRY,
];

/// What a listing says about an objective, and how to make one.
#[derive(Debug)]
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

impl Entry {
    /// The parameters in use: what was typed, checked, and the defaults for the rest of what the objective has.
    ///
    /// # Errors
    ///
    /// [`ObjectiveError::NotAParameter`] and [`ObjectiveError::OutOfRange`].
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

    fn has(&self, parameter: &str) -> bool {
        self.parameters.iter().any(|own| own.name() == parameter)
    }

    fn advice_for(&self, parameter: &str) -> String {
        if let Some((_, advice)) = self.advice.iter().find(|(name, _)| *name == parameter) {
            return (*advice).to_owned();
        }
        let own: Vec<String> = self.parameters.iter().map(|parameter| flag(parameter.name())).collect();
        let owners: Vec<&str> =
            OBJECTIVES.iter().filter(|entry| entry.has(parameter)).map(|entry| entry.name).collect();
        format!("it takes {}; {} belongs to {}", own.join(", "), flag(parameter), owners.join(", "))
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
    Err(ObjectiveError::UnknownObjective { typed: name.to_owned(), suggestion, known: known() })
}

/// Makes the objective called `name` with the parameters as typed.
///
/// # Errors
///
/// As [`find`] and [`Entry::build`].
pub fn build(name: &str, parameters: &Parameters) -> Result<Box<dyn Objective>, ObjectiveError> {
    find(name)?.build(parameters)
}

fn known() -> String {
    let names: Vec<String> = OBJECTIVES
        .iter()
        .map(|entry| match entry.aliases {
            [] => entry.name.to_owned(),
            aliases => format!("{} (also {})", entry.name, alternatives(aliases)),
        })
        .collect();
    names.join(", ")
}
