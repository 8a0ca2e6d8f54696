//! `rejection-sample`: pairs from scored candidates by statistical rejection sampling, RSO (arXiv 2309.06657, Algorithm 1).
//!
//! The N candidates of a prompt were drawn from some policy. Those that are accepted are as if drawn from the policy that
//! maximises the reward under a penalty of beta times the divergence from it:
//!
//! ```text
//! until K are accepted or none is left:
//!     r_max = the highest score of the candidates not yet accepted
//!     for each of them, in order: accept with probability exp((r - r_max) / beta)
//! ```
//!
//! (r_max stays within a round; every round accepts its best one.) beta -> 0 takes the K best, beta -> infinity the K first.
//! The accepted ones are then set against each other ([`Ranking`]), the higher score as the chosen answer; the paper labels its
//! pairs with a ranking model and found K / 2 pairs of 8 accepted candidates out of 64 best, with beta 0.5.
//!
//! Of equal candidates the last score counts, as in the paper's code. What turbo-alignment has under this name throws out the
//! candidates that were *not* accepted in the first round and goes on with the accepted ones; this does not.
//!
//! Everything random is drawn from the seed and the prompt: the order of the file and its other rows make no difference.
//! Boundary: scores are given; who wrote the candidates and who judged them is not looked at.

use std::collections::HashMap;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::xxh3_64;

use super::{Input, Lines, PrepareError, Report, Task};
use crate::data::columns::{ColumnMap, Columns, Content};
use crate::data::message::{ASSISTANT, USER};
use crate::data::{Place, Row, RowError};
use crate::progress::Progress;

const LENGTHS: &str = "as many scores as there are candidates";

/// How candidates are chosen and set against each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingConfig {
    /// K.
    pub keep: usize,
    /// The temperature of acceptance.
    pub beta: f64,
    /// Who is set against whom.
    pub ranking: Ranking,
    /// Whether prompts and candidates that are strings are written as messages of the user and the assistant.
    pub as_messages: bool,
    /// Decides everything random.
    pub seed: u64,
}

impl Default for SamplingConfig {
    /// The paper's settings (section 5).
    fn default() -> Self {
        Self { keep: 8, beta: 0.5, ranking: Ranking::FirstRound, as_messages: false, seed: 0 }
    }
}

/// Who is set against whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ranking {
    /// Everybody once, by lot: K / 2 pairs.
    #[default]
    FirstRound,
    /// The winners again, until one is left: K - 1 pairs.
    Tournament,
}

/// A candidate: what it says, and its score.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate<T> {
    /// The answer.
    pub answer: T,
    /// What a reward model or a judge gave it.
    pub score: f64,
}

/// Writes the pairs of each prompt.
///
/// A row holds a prompt with `candidates` and `scores`, or one `completion` with its `score`; rows of the latter kind with
/// one prompt belong together, wherever they stand, and are held in memory.
///
/// # Errors
/// As [`Task::each_row`].
pub fn rejection_sample(
    task: &Task,
    config: &SamplingConfig,
    progress: &mut dyn Progress,
) -> Result<Report, PrepareError> {
    let mut figures = Figures::default();
    let mut report = task.write(progress, |input, lines, report| {
        let mut maker = Maker { config, lines, report, figures: &mut figures };
        match input.next().transpose()? {
            None => return Ok(()),
            Some(first) if first.columns.contains_key("candidates") => maker.of_lists(first, input)?,
            Some(first) => maker.of_single_rows(first, input)?,
        }
        report.unit = (figures.prompts, "prompts");
        Ok(())
    })?;
    let Figures { candidates, accepted, ties, .. } = figures;
    report.notes.push((accepted, format!("of {candidates} different candidates accepted")));
    report.notes.push((ties, "pairs of equal scores left out".to_owned()));
    Ok(report)
}

#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    prompts: usize,
    candidates: usize,
    accepted: usize,
    ties: usize,
}

/// A prompt with all that was answered to it, and what else is known of it.
struct Prompted {
    prompt: Value,
    candidates: Vec<Candidate<Value>>,
    others: Map<String, Value>,
    place: Place,
}

struct Maker<'a, 'b> {
    config: &'a SamplingConfig,
    lines: &'a mut Lines<'b>,
    report: &'a mut Report,
    figures: &'a mut Figures,
}

impl Maker<'_, '_> {
    /// Rows of one prompt and all its candidates.
    fn of_lists(&mut self, first: Row, input: &mut Input<'_>) -> Result<(), PrepareError> {
        let mut next = Some(first);
        while let Some(row) = next {
            let (prompt, candidates) = lists(&row.columns).map_err(|problem| input.wrong(&row, problem))?;
            let place = input.place(&row);
            let mut others = row.columns;
            for column in ["prompt", "candidates", "scores"] {
                others.shift_remove(column);
            }
            self.make(Prompted { prompt, candidates, others, place })?;
            next = input.next().transpose()?;
        }
        Ok(())
    }

    /// Rows of one candidate each.
    fn of_single_rows(&mut self, first: Row, input: &mut Input<'_>) -> Result<(), PrepareError> {
        let mut known: HashMap<String, usize> = HashMap::new();
        let mut prompts: Vec<Prompted> = Vec::new();
        let mut next = Some(first);
        while let Some(row) = next {
            let (prompt, candidate) = single(&row.columns).map_err(|problem| input.wrong(&row, problem))?;
            let index = *known.entry(prompt.to_string()).or_insert_with(|| {
                let place = input.place(&row);
                prompts.push(Prompted { prompt, candidates: Vec::new(), others: Map::new(), place });
                prompts.len() - 1
            });
            prompts[index].candidates.push(candidate);
            next = input.next().transpose()?;
        }
        prompts.into_iter().try_for_each(|prompted| self.make(prompted))
    }

    fn make(&mut self, prompted: Prompted) -> Result<(), PrepareError> {
        let Prompted { prompt, candidates, others, place } = prompted;
        let mut rng = rng(self.config.seed, &prompt);
        self.figures.prompts += 1;
        let candidates = distinct(candidates);
        self.figures.candidates += candidates.len();
        let accepted = accept(candidates, self.config.keep, self.config.beta, &mut rng);
        self.figures.accepted += accepted.len();
        let pairs = rank(accepted, self.config.ranking, &mut rng);
        let ties = pairs.iter().filter(|[one, other]| one.score == other.score).count();
        self.figures.ties += ties;
        if ties == pairs.len() {
            let reason = match pairs.len() {
                0 => "fewer than two different candidates",
                _ => "no two scores differ among those set against each other",
            };
            self.report.drop_row(reason.to_owned(), place);
            return Ok(());
        }
        for [chosen, rejected] in pairs.into_iter().filter(|[one, other]| one.score != other.score) {
            let row = pair(self.config, &prompt, chosen, rejected, &others);
            self.lines.write(&row)?;
        }
        Ok(())
    }
}

/// Of equal answers the first one, with the last one's score.
fn distinct(candidates: Vec<Candidate<Value>>) -> Vec<Candidate<Value>> {
    let mut known: HashMap<String, usize> = HashMap::new();
    let mut distinct: Vec<Candidate<Value>> = Vec::new();
    for candidate in candidates {
        match known.get(&candidate.answer.to_string()) {
            Some(&index) => distinct[index].score = candidate.score,
            None => {
                known.insert(candidate.answer.to_string(), distinct.len());
                distinct.push(candidate);
            }
        }
    }
    distinct
}

/// A generator of this prompt's own.
fn rng(seed: u64, prompt: &Value) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let mut rng = ChaCha8Rng::from_seed(key);
    rng.set_stream(xxh3_64(prompt.to_string().as_bytes()));
    rng
}

/// Up to `keep` of the candidates, in the order in which they are accepted.
pub fn accept<T>(
    mut candidates: Vec<Candidate<T>>,
    keep: usize,
    beta: f64,
    rng: &mut impl Rng,
) -> Vec<Candidate<T>> {
    let mut accepted = Vec::with_capacity(keep.min(candidates.len()));
    while accepted.len() < keep && !candidates.is_empty() {
        let best = candidates.iter().fold(f64::NEG_INFINITY, |best, candidate| best.max(candidate.score));
        let mut left = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            let open = accepted.len() < keep;
            match open && uniform(rng) < ((candidate.score - best) / beta).exp() {
                true => accepted.push(candidate),
                false => left.push(candidate),
            }
        }
        candidates = left;
    }
    accepted
}

/// The pairs, the higher score first.
pub fn rank<T: Clone>(
    mut candidates: Vec<Candidate<T>>,
    ranking: Ranking,
    rng: &mut impl Rng,
) -> Vec<[Candidate<T>; 2]> {
    for last in (1..candidates.len()).rev() {
        // As in `data::order`: uniform over 0..=last.
        let pick = (u128::from(rng.next_u64()) * (last as u128 + 1)) >> 64;
        candidates.swap(last, pick as usize);
    }
    let mut pairs = Vec::new();
    while candidates.len() > 1 {
        let mut winners = Vec::new();
        let mut left = candidates.into_iter();
        while let Some(one) = left.next() {
            // The last one of an odd number meets nobody.
            let Some(other) = left.next() else {
                winners.push(one);
                break;
            };
            let (winner, loser) = if one.score >= other.score { (one, other) } else { (other, one) };
            winners.push(winner.clone());
            pairs.push([winner, loser]);
        }
        candidates = match ranking {
            Ranking::FirstRound => Vec::new(),
            Ranking::Tournament => winners,
        };
    }
    pairs
}

/// From 0 up to 1, in steps of 2^-53.
fn uniform(rng: &mut impl Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

fn pair(
    config: &SamplingConfig,
    prompt: &Value,
    chosen: Candidate<Value>,
    rejected: Candidate<Value>,
    others: &Map<String, Value>,
) -> Map<String, Value> {
    let messages = config.as_messages || prompt.is_array();
    let written = |role: &str, content: Value| match content {
        Value::String(text) if messages => json!([{ "role": role, "content": text }]),
        content => content,
    };
    let mut row = Map::new();
    let mut insert = |name: &str, value| row.insert(name.to_owned(), value);
    insert("prompt", written(USER, prompt.clone()));
    insert("chosen", written(ASSISTANT, chosen.answer));
    insert("rejected", written(ASSISTANT, rejected.answer));
    insert("score_chosen", chosen.score.into());
    insert("score_rejected", rejected.score.into());
    row.extend(others.iter().map(|(name, value)| (name.clone(), value.clone())));
    row
}

/// A prompt and its candidates.
fn lists(row: &Map<String, Value>) -> Result<(Value, Vec<Candidate<Value>>), RowError> {
    let none = ColumnMap::default();
    let columns = Columns::new(row, &none);
    let prompt = content(&columns, "prompt")?;
    let answers = list(&columns, "candidates")?;
    let scores = list(&columns, "scores")?;
    if answers.len() != scores.len() {
        let found = format!("{} scores for {} candidates", scores.len(), answers.len());
        return Err(mistyped("scores", String::new(), found, LENGTHS));
    }
    let candidates = answers.iter().zip(scores).enumerate().map(|(index, (answer, score))| {
        // Read as a column of its own, for the errors of messages.
        let column = Map::from_iter([("candidates".to_owned(), answer.clone())]);
        let answer = content(&Columns::new(&column, &none), "candidates")?;
        let place = || format!(", position {index},");
        let score =
            score.as_f64().ok_or_else(|| mistyped("scores", place(), score.to_string(), "a number"))?;
        Ok(Candidate { answer, score })
    });
    Ok((prompt, candidates.collect::<Result<_, RowError>>()?))
}

/// A prompt and one candidate.
fn single(row: &Map<String, Value>) -> Result<(Value, Candidate<Value>), RowError> {
    let none = ColumnMap::default();
    let columns = Columns::new(row, &none);
    let prompt = content(&columns, "prompt")?;
    let answer = content(&columns, "completion")?;
    let score = columns.get("score").ok_or_else(|| columns.missing("score"))?;
    let score =
        score.as_f64().ok_or_else(|| mistyped("score", String::new(), score.to_string(), "a number"))?;
    Ok((prompt, Candidate { answer, score }))
}

/// A column that must be text or messages, as it is written again.
fn content(columns: &Columns<'_>, name: &'static str) -> Result<Value, RowError> {
    Ok(match columns.content(name)? {
        Content::Text(text) => Value::from(text),
        Content::Messages(messages) => super::explicit::list(messages),
    })
}

fn list<'a>(columns: &Columns<'a>, name: &'static str) -> Result<&'a Vec<Value>, RowError> {
    match columns.get(name).ok_or_else(|| columns.missing(name))? {
        Value::Array(list) => Ok(list),
        other => Err(mistyped(name, String::new(), other.to_string(), "a list")),
    }
}

fn mistyped(column: &str, place: String, found: String, expected: &'static str) -> RowError {
    RowError::MistypedColumn { column: column.to_owned(), place, found, expected }
}
