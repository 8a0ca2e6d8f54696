//! What is to be judged: every answer of every model by itself, or against a baseline's, turn by turn.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::judgments::{Judgment, NO_SCORE, NO_WINNER, PairJudgment, SingleJudgment};
use super::verdict::{self, Verdict};
use super::{JudgeError, JudgePrompt, Prompts};
use crate::data::DataError;
use crate::eval::mt_bench::{self, ModelAnswer, Question};

/// The kinds of question that a judge is shown a reference answer to (FastChat's `NEED_REF_CATS`).
const WITH_REFERENCE: [&str; 3] = ["math", "reasoning", "coding"];

/// How answers are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Each by itself, from 1 to 10.
    Single,
    /// Each against the baseline's, in both orders.
    Pairwise,
}

impl Mode {
    /// The prompt for a question: by whether there is a reference, and by turn.
    fn prompt(self, with_reference: bool, turn: usize) -> &'static str {
        match (self, with_reference, turn) {
            (Mode::Single, false, 1) => "single-v1",
            (Mode::Single, true, 1) => "single-math-v1",
            (Mode::Single, false, _) => "single-v1-multi-turn",
            (Mode::Single, true, _) => "single-math-v1-multi-turn",
            (Mode::Pairwise, false, 1) => "pair-v2",
            (Mode::Pairwise, true, 1) => "pair-math-v1",
            (Mode::Pairwise, false, _) => "pair-v2-multi-turn",
            (Mode::Pairwise, true, _) => "pair-math-v1-multi-turn",
        }
    }

    fn output_format(self) -> &'static str {
        match self {
            Mode::Single => "[[rating]]",
            Mode::Pairwise => "[[A]]",
        }
    }
}

/// The answers of one model.
#[derive(Clone, Debug)]
pub struct AnswerFile {
    path: PathBuf,
    /// The model's name: the file's, without its ending, as FastChat has it.
    pub model: String,
    answers: BTreeMap<u64, ModelAnswer>,
}

impl AnswerFile {
    /// Reads a `model_answer` or `reference_answer` file.
    ///
    /// # Errors
    /// A file that cannot be read or holds something else.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        // Nothing there is no answers to mt_bench, but a mistake here.
        fs_err::metadata(path).map_err(|source| DataError::Read { path: path.to_owned(), source })?;
        let model = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { path: path.to_owned(), model, answers: mt_bench::answers(path)? })
    }

    /// The answers to the turns of a question, as many as there are.
    fn turns(&self, question_id: u64) -> &[String] {
        let choice = self.answers.get(&question_id).and_then(|answer| answer.choices.first());
        choice.map_or(&[], |choice| &choice.turns)
    }
}

/// Everything that is judged together.
#[derive(Clone, Debug)]
pub struct Contest {
    /// The questions.
    pub questions: Vec<Question>,
    /// Who answered them.
    pub models: Vec<AnswerFile>,
    /// Whom they are compared with, which makes the mode pairwise.
    pub baseline: Option<AnswerFile>,
    /// The answers to compare with for questions that have a right one.
    pub references: Option<AnswerFile>,
    /// FastChat's prompts.
    pub prompts: Prompts,
}

/// One thing to be judged: an answer, or a pair of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Match<'a> {
    /// What was asked.
    pub question: &'a Question,
    /// Who answered.
    pub model: &'a str,
    /// Whom the answer is compared with.
    pub baseline: Option<&'a str>,
    /// How the judge is asked.
    pub prompt: &'a JudgePrompt,
    /// 1 or 2.
    pub turn: usize,
    /// What the judge is shown: once, or in both orders.
    pub user_prompts: Vec<String>,
}

impl Contest {
    /// By whether there is a baseline.
    pub fn mode(&self) -> Mode {
        if self.baseline.is_some() { Mode::Pairwise } else { Mode::Single }
    }

    /// All matches, in FastChat's order: the first turns, then the second ones; of each the questions without and then
    /// those with a reference.
    ///
    /// # Errors
    /// An answer, reference or prompt that is missing, or two models of one name.
    pub fn matches(&self) -> Result<Vec<Match<'_>>, JudgeError> {
        let mut names = BTreeSet::new();
        for file in self.models.iter().chain(&self.baseline) {
            if !names.insert(&file.model) {
                return Err(JudgeError::SameName { name: file.model.clone() });
            }
            self.check_answers(file)?;
        }
        let mut matches = Vec::new();
        for turn in [1, 2] {
            for with_reference in [false, true] {
                for question in &self.questions {
                    // As FastChat: the second turn is judged where there are exactly two.
                    let has_turn = turn == 1 || question.turns.len() == 2;
                    if has_turn && needs_reference(question) == with_reference {
                        for model in &self.models {
                            matches.push(self.contest(question, model, turn)?);
                        }
                    }
                }
            }
        }
        Ok(matches)
    }

    fn check_answers(&self, file: &AnswerFile) -> Result<(), JudgeError> {
        let (question_id, path) = (|question: &Question| question.question_id, &file.path);
        for question in &self.questions {
            let (found, expected) = (file.turns(question_id(question)).len(), question.turns.len());
            if found < expected {
                let (path, question_id) = (path.clone(), question_id(question));
                return Err(JudgeError::NoAnswer { path, question_id, found, expected });
            }
        }
        Ok(())
    }

    fn contest<'a>(
        &'a self,
        question: &'a Question,
        model: &'a AnswerFile,
        turn: usize,
    ) -> Result<Match<'a>, JudgeError> {
        let (id, with_reference) = (question.question_id, needs_reference(question));
        let prompt =
            self.prompts.get(self.mode().prompt(with_reference, turn), self.mode().output_format())?;
        let mut fields: Vec<(&str, &str)> = Vec::new();
        let turns = |names: [&'static str; 2], texts: &'a [String]| {
            names.into_iter().zip(texts.iter().map(String::as_str)).collect::<Vec<_>>()
        };
        fields.extend(turns(["question_1", "question_2"], &question.turns));
        fields.extend(question.turns.first().map(|text| ("question", text.as_str())));
        if with_reference {
            let reference = self.references.as_ref().map_or(&[][..], |file| file.turns(id));
            if reference.len() < question.turns.len() {
                return Err(JudgeError::NoReference {
                    path: self.references.as_ref().map(|file| file.path.clone()),
                    question_id: id,
                    category: question.category.clone(),
                });
            }
            fields.extend(turns(["ref_answer_1", "ref_answer_2"], reference));
        }
        let filled = |shown: &[(&str, &str)]| self.prompts.fill(prompt, &[&fields[..], shown].concat());
        let answer = model.turns(id);
        let user_prompts = match &self.baseline {
            None => {
                let mut shown = turns(["answer_1", "answer_2"], answer);
                shown.extend(answer.first().map(|text| ("answer", text.as_str())));
                vec![filled(&shown)?]
            }
            Some(baseline) => {
                let ordered = |a: &'a [String], b: &'a [String]| {
                    let mut shown = turns(["answer_a_1", "answer_a_2"], a);
                    shown.extend(turns(["answer_b_1", "answer_b_2"], b));
                    shown.extend(a.first().map(|text| ("answer_a", text.as_str())));
                    shown.extend(b.first().map(|text| ("answer_b", text.as_str())));
                    filled(&shown)
                };
                let other = baseline.turns(id);
                vec![ordered(answer, other)?, ordered(other, answer)?]
            }
        };
        let baseline = self.baseline.as_ref().map(|file| file.model.as_str());
        Ok(Match { question, model: &model.model, baseline, prompt, turn, user_prompts })
    }
}

fn needs_reference(question: &Question) -> bool {
    WITH_REFERENCE.contains(&question.category.as_str())
}

impl Match<'_> {
    /// Whether a line of an earlier run is this match, judged by this judge on these very texts, with a score.
    pub fn is_judged_by(&self, judgment: &Judgment, judge: &str) -> bool {
        let is_prompt = |(model, prompt): &(String, String)| model == judge && *prompt == self.prompt.name;
        let same = match judgment {
            Judgment::Single(single) => {
                self.baseline.is_none()
                    && (single.question_id, single.turn) == (self.question.question_id, self.turn)
                    && single.model == self.model
                    && is_prompt(&single.judge)
                    && self.user_prompts[..] == [&*single.user_prompt]
            }
            Judgment::Pair(pair) => {
                self.baseline == Some(&pair.model_2)
                    && (pair.question_id, pair.turn) == (self.question.question_id, self.turn)
                    && pair.model_1 == self.model
                    && is_prompt(&pair.judge)
                    && self.user_prompts[..] == [&*pair.g1_user_prompt, &*pair.g2_user_prompt]
            }
        };
        same && judgment.is_scored()
    }

    /// The line for what the judge said to each of [`Match::user_prompts`].
    pub fn judgment(&self, judge: &str, said: &[String], tstamp: f64) -> Judgment {
        let judge = (judge.to_owned(), self.prompt.name.clone());
        let (question_id, turn) = (self.question.question_id, self.turn);
        let said = |game: usize| said.get(game).cloned().unwrap_or_default();
        let shown = |game: usize| self.user_prompts.get(game).cloned().unwrap_or_default();
        let Some(baseline) = self.baseline else {
            let score = verdict::rating(&said(0)).unwrap_or(NO_SCORE);
            return Judgment::Single(SingleJudgment {
                question_id,
                model: self.model.to_owned(),
                judge,
                user_prompt: shown(0),
                judgment: said(0),
                score,
                turn,
                tstamp,
            });
        };
        let winner = |game: usize, a: &str, b: &str| {
            let winner = match verdict::winner(&said(game)) {
                Some(Verdict::A) => a,
                Some(Verdict::B) => b,
                Some(Verdict::Tie) => "tie",
                None => NO_WINNER,
            };
            winner.to_owned()
        };
        Judgment::Pair(PairJudgment {
            question_id,
            model_1: self.model.to_owned(),
            model_2: baseline.to_owned(),
            g1_winner: winner(0, "model_1", "model_2"),
            g2_winner: winner(1, "model_2", "model_1"),
            judge,
            g1_user_prompt: shown(0),
            g1_judgment: said(0),
            g2_user_prompt: shown(1),
            g2_judgment: said(1),
            turn,
            tstamp,
        })
    }
}
