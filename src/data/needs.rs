//! What an objective needs of every row, and reading it.
//!
//! The answers come with the shape of the file ([`super::shape`]); here are a third answer, completions that are no
//! demonstrations, and columns that say something of the row ([`Annotation`]) or bring log-probs of a reference model.
//! Lists have one number for every token of the answer as it is encoded, its end token included, before anything is cut
//! off; where tokens are only context, their numbers are passed over.
//!
//! Boundary: columns of one row. That a number means something to an objective is said here once, by its range.

use std::sync::Arc;

use serde_json::Value;

use super::annotations::{Annotation, Annotations, AnswerAnnotations, Reference};
use super::columns::{Columns, Content};
use super::error::RowError;
use super::example::{Example, Part, Parts};
use super::group::Answer;
use super::role::{ByRole, Role, Roles};
use super::rows::kind;

/// What every row must have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Answers; where [`Role::Rejected`] is not among them, demonstrations will do.
    pub answers: Roles,
    /// What is said of the row.
    pub annotations: Vec<Annotation>,
    /// Whether log-probs of a reference model are of use, where the data bring them.
    pub reference: bool,
}

/// The column of TPO's gold answer, and TRL's name for it.
const THIRD: [&str; 2] = ["reference_response", "reference"];
/// The same as token ids.
const THIRD_IDS: &str = "reference_response_input_ids";

/// The columns of a reference model's log-probs, by the answer that they are of.
const REFERENCES: [(Role, &str); 3] = [
    (Role::Chosen, "ref_chosen_logps"),
    (Role::Rejected, "ref_rejected_logps"),
    (Role::Completion, "ref_logps"),
];

impl Needs {
    /// A preference pair.
    pub fn pairs() -> Self {
        Self { answers: Roles::PAIR, ..Self::default() }
    }

    /// Whether rows must be labelled or scored completions rather than pairs or demonstrations.
    pub fn completions(&self) -> bool {
        self.answers.contains(Role::Completion)
    }

    /// The columns beside those of the shape that are read, as far as a row has them.
    pub fn columns<'a>(&self, columns: &Columns<'a>) -> Vec<&'static str> {
        let third = self.answers.contains(Role::Third).then_some([THIRD[0], THIRD[1], THIRD_IDS]);
        let references = REFERENCES.iter().map(|(_, column)| *column).filter(|_| self.reference);
        let said = self.annotations.iter().flat_map(|annotation| annotation.columns(self.answers));
        let all = third.into_iter().flatten().chain(references).chain(said.copied());
        all.filter(|column| columns.has(column)).collect()
    }

    /// The example with the answers that the objective learns from in their roles.
    ///
    /// # Errors
    /// A third answer that is missing or of another type than the rest.
    pub fn complete(&self, mut example: Example, columns: &Columns<'_>) -> Result<Example, RowError> {
        if self.completions() {
            match &mut example {
                Example::Text(parts) => as_completion(parts),
                Example::Conversation(conversation) => as_completion(&mut conversation.parts),
                Example::Tokens(parts) => as_completion(parts),
                Example::Unusable(_) => {}
            }
        }
        if self.answers.contains(Role::Third) {
            match &mut example {
                Example::Text(parts) => match third(columns)? {
                    (column, Content::Text(content)) => parts.answers.push(third_part(column, content)),
                    (column, other) => return Err(mistyped(column, &other, "a string")),
                },
                Example::Conversation(conversation) => match third(columns)? {
                    (column, Content::Messages(content)) => {
                        conversation.parts.answers.push(third_part(column, content));
                    }
                    (column, other) => return Err(mistyped(column, &other, "a list of messages")),
                },
                Example::Tokens(parts) => {
                    let content = columns.token_ids(THIRD_IDS)?;
                    parts.answers.push(third_part(columns.name(THIRD_IDS), content));
                }
                Example::Unusable(_) => {}
            }
        }
        Ok(example)
    }

    /// What the row says beside its answers.
    ///
    /// # Errors
    /// A column that is missing, of another type, or out of range.
    pub fn read(&self, columns: &Columns<'_>) -> Result<RowAnnotations, RowError> {
        let mut row = RowAnnotations::default();
        for annotation in &self.annotations {
            match annotation {
                Annotation::Label => row.label = Some(label(columns)?),
                Annotation::SoftLabel => row.soft_label = Some(share(columns, "soft_label")?),
                Annotation::Score => {
                    let names = annotation.columns(self.answers).iter().zip(own_roles(self.answers));
                    for (name, role) in names {
                        row.scores[role] = Some(share(columns, name)?);
                    }
                }
                Annotation::PromptEmbedding => {
                    row.prompt_embedding = Some(numbers(columns, "prompt_embedding")?);
                }
                Annotation::Confidence => row.confidence = Some(number(columns, "confidence")?),
                Annotation::Weights => {
                    let names = annotation.columns(self.answers).iter().zip(own_roles(self.answers));
                    for (name, role) in names {
                        row.lists[role].weights = Some(List::read(columns, name)?);
                    }
                }
                Annotation::Advantages => {
                    row.lists[Role::Completion].advantages = Some(List::read(columns, "advantages")?);
                }
                Annotation::OldLogps => {
                    row.lists[Role::Completion].old_logps = Some(List::read(columns, "old_logps")?);
                }
            }
        }
        for (role, name) in REFERENCES.iter().filter(|_| self.reference) {
            row.lists[*role].reference = match columns.get(name) {
                None => None,
                Some(Value::Number(_)) => Some(Given::Sum(number(columns, name)?)),
                Some(_) => Some(Given::Tokens(List::read(columns, name)?)),
            };
        }
        Ok(row)
    }
}

/// The roles whose columns come in pairs, or the completion's alone.
fn own_roles(answers: Roles) -> impl Iterator<Item = Role> {
    let completion = answers.contains(Role::Completion);
    let roles = if completion { Roles::COMPLETION } else { Roles::PAIR };
    roles.iter()
}

fn as_completion<T>(parts: &mut Parts<T>) {
    for part in &mut parts.answers {
        if part.role == Role::Chosen {
            part.role = Role::Completion;
        }
    }
}

fn third(columns: &Columns<'_>) -> Result<(String, Content), RowError> {
    let name = THIRD.into_iter().find(|name| columns.has(name)).unwrap_or(THIRD[0]);
    Ok((columns.name(name), columns.content(name)?))
}

fn third_part<T>(column: String, content: T) -> Part<T> {
    Part { role: Role::Third, column, content }
}

fn mistyped(column: String, found: &Content, expected: &'static str) -> RowError {
    RowError::MistypedColumn { column, place: String::new(), found: found.kind().to_owned(), expected }
}

fn value<'a>(columns: &Columns<'a>, name: &'static str) -> Result<&'a Value, RowError> {
    columns.get(name).ok_or_else(|| columns.missing(name))
}

fn wrong(
    columns: &Columns<'_>,
    name: &str,
    place: String,
    found: &Value,
    expected: &'static str,
) -> RowError {
    let found = match found {
        Value::Number(number) => number.to_string(),
        other => kind(other).to_owned(),
    };
    RowError::MistypedColumn { column: columns.name(name), place, found, expected }
}

/// `true` and `false`, and 1 and 0 as some data sets have them.
fn label(columns: &Columns<'_>) -> Result<bool, RowError> {
    match value(columns, "label")? {
        Value::Bool(label) => Ok(*label),
        Value::Number(number) if number.as_f64() == Some(1.0) => Ok(true),
        Value::Number(number) if number.as_f64() == Some(0.0) => Ok(false),
        other => Err(wrong(columns, "label", String::new(), other, "true or false")),
    }
}

fn number(columns: &Columns<'_>, name: &'static str) -> Result<f64, RowError> {
    let found = value(columns, name)?;
    let number = found.as_f64().filter(|number| number.is_finite());
    number.ok_or_else(|| wrong(columns, name, String::new(), found, "a number"))
}

/// A number from 0 to 1.
fn share(columns: &Columns<'_>, name: &'static str) -> Result<f64, RowError> {
    let number = number(columns, name)?;
    if (0.0..=1.0).contains(&number) {
        return Ok(number);
    }
    Err(wrong(columns, name, String::new(), value(columns, name)?, "a number from 0 to 1"))
}

fn numbers(columns: &Columns<'_>, name: &'static str) -> Result<Vec<f32>, RowError> {
    let Value::Array(list) = value(columns, name)? else {
        return Err(wrong(columns, name, String::new(), value(columns, name)?, "a list of numbers"));
    };
    let one = |(position, value): (usize, &Value)| {
        let number = value.as_f64().map(|number| number as f32).filter(|number| number.is_finite());
        number.ok_or_else(|| wrong(columns, name, format!(", position {position},"), value, "a number"))
    };
    list.iter().enumerate().map(one).collect()
}

/// Numbers for the tokens of an answer, with the column's name for errors.
#[derive(Clone, Debug, PartialEq)]
struct List {
    column: String,
    numbers: Vec<f32>,
}

impl List {
    fn read(columns: &Columns<'_>, name: &'static str) -> Result<Self, RowError> {
        Ok(Self { column: columns.name(name), numbers: numbers(columns, name)? })
    }

    /// The numbers of the tokens that are left and scored.
    fn fit(self, tokens: usize, answer: &Answer) -> Result<Box<[f32]>, RowError> {
        let Self { column, numbers } = self;
        if numbers.len() != tokens {
            return Err(RowError::WrongCount { column, found: numbers.len(), tokens });
        }
        let left = numbers.into_iter().take(answer.ids.len()).enumerate();
        Ok(left.filter(|(place, _)| answer.is_scored(*place)).map(|(_, number)| number).collect())
    }
}

/// Log-probs that the data bring.
#[derive(Clone, Debug, PartialEq)]
enum Given {
    Sum(f64),
    Tokens(List),
}

/// Lists of one answer.
#[derive(Clone, Debug, Default, PartialEq)]
struct Lists {
    weights: Option<List>,
    advantages: Option<List>,
    old_logps: Option<List>,
    reference: Option<Given>,
}

/// What a row says, before the lengths of its answers are known.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowAnnotations {
    label: Option<bool>,
    soft_label: Option<f64>,
    prompt_embedding: Option<Vec<f32>>,
    confidence: Option<f64>,
    scores: ByRole<Option<f64>>,
    lists: ByRole<Lists>,
}

impl RowAnnotations {
    /// The same for the answers as they came out of encoding; `tokens` are those each had before it was cut. Nothing where
    /// the row says nothing.
    ///
    /// # Errors
    /// [`RowError::WrongCount`]: a list that is not as long as its answer. [`RowError::CutSum`]: a summed log-prob of an
    /// answer that is cut or masked.
    pub fn fit(mut self, answers: &[Answer], tokens: &[usize]) -> Result<Option<Arc<Annotations>>, RowError> {
        let mut given = ByRole::<AnswerAnnotations>::default();
        for (answer, &tokens) in answers.iter().zip(tokens) {
            let lists = std::mem::take(&mut self.lists[answer.role]);
            let fit = |list: Option<List>| list.map(|list| list.fit(tokens, answer)).transpose();
            let references = match lists.reference {
                None => Vec::new(),
                Some(Given::Tokens(list)) => vec![Reference::Tokens(list.fit(tokens, answer)?)],
                Some(Given::Sum(_)) if answer.scored_tokens() < tokens => {
                    return Err(RowError::CutSum { answer: answer.role.name() });
                }
                Some(Given::Sum(sum)) => vec![Reference::Sum(sum)],
            };
            given[answer.role] = AnswerAnnotations {
                references,
                score: self.scores[answer.role],
                weights: fit(lists.weights)?,
                advantages: fit(lists.advantages)?,
                old_logps: fit(lists.old_logps)?,
            };
        }
        let annotations = Annotations {
            label: self.label,
            soft_label: self.soft_label,
            prompt_embedding: self.prompt_embedding.map(Vec::into_boxed_slice),
            confidence: self.confidence,
            answers: given,
        };
        Ok((annotations != *Annotations::NONE).then(|| Arc::new(annotations)))
    }
}
