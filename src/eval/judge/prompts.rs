//! The judge's prompts: FastChat's `judge_prompts.jsonl`, and the filling in of a template as Python's `str.format` does it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::JudgeError;
use crate::data::{DataError, Numbering, Place, RowError, Rows};

/// One line of `judge_prompts.jsonl`; other columns are not looked at.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct JudgePrompt {
    /// What it is known by: `single-v1`, `pair-math-v1-multi-turn`, ...
    pub name: String,
    /// `single` or `pairwise`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What the judge is told of its task.
    pub system_prompt: String,
    /// What it is shown, with `{fields}`.
    pub prompt_template: String,
    /// `[[rating]]` or `[[A]]`.
    pub output_format: String,
}

/// The prompts of a file, by name.
#[derive(Clone, Debug)]
pub struct Prompts {
    path: PathBuf,
    by_name: BTreeMap<String, JudgePrompt>,
}

impl Prompts {
    /// Reads a file of prompts.
    ///
    /// # Errors
    /// A file that cannot be read, or a line that is no prompt.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let mut by_name = BTreeMap::new();
        for row in Rows::open(path)? {
            let row = row?;
            let prompt =
                JudgePrompt::deserialize(Value::Object(row.columns)).map_err(|error| DataError::Row {
                    place: Place::new(path, Numbering::Lines, row.line),
                    problem: Box::new(RowError::NotAJudgePrompt { message: error.to_string() }),
                })?;
            by_name.insert(prompt.name.clone(), prompt);
        }
        Ok(Self { path: path.to_owned(), by_name })
    }

    /// The prompt of this name, which must ask for a judgment in this form.
    ///
    /// # Errors
    /// None of that name, or one that asks for something else.
    pub fn get(&self, name: &'static str, output_format: &str) -> Result<&JudgePrompt, JudgeError> {
        let prompt =
            self.by_name.get(name).ok_or_else(|| JudgeError::NoPrompt { path: self.path.clone(), name })?;
        if prompt.output_format != output_format {
            let problem =
                format!("its output_format is \"{}\" and must be \"{output_format}\"", prompt.output_format);
            return Err(self.wrong(name, problem));
        }
        Ok(prompt)
    }

    /// The text that a judge is shown.
    ///
    /// # Errors
    /// A field that there is nothing for, or braces that are not closed.
    pub fn fill(&self, prompt: &JudgePrompt, fields: &[(&str, &str)]) -> Result<String, JudgeError> {
        fill(&prompt.prompt_template, fields).map_err(|problem| self.wrong(&prompt.name, problem))
    }

    fn wrong(&self, name: &str, problem: String) -> JudgeError {
        JudgeError::Prompt { path: self.path.clone(), name: name.to_owned(), problem }
    }
}

/// Python's `str.format` with named fields and nothing else: `{name}` is replaced, `{{` and `}}` are braces. What is filled in is
/// not looked at again, so an answer may hold braces.
fn fill(template: &str, fields: &[(&str, &str)]) -> Result<String, String> {
    let mut text = String::new();
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        text.push_str(&rest[..at]);
        let (brace, after) = (&rest[at..=at], &rest[at + 1..]);
        if let Some(after) = after.strip_prefix(brace) {
            text.push_str(brace);
            rest = after;
            continue;
        }
        let field = (brace == "{").then(|| after.split_once('}')).flatten();
        let (name, after) = field.ok_or("a brace stands alone; {{ and }} are braces in the text")?;
        let value = fields.iter().find(|(known, _)| *known == name);
        let (_, value) = value.ok_or_else(|| {
            let known: Vec<&str> = fields.iter().map(|(known, _)| *known).collect();
            format!("there is nothing for {{{name}}}; known here are {}", known.join(", "))
        })?;
        text.push_str(value);
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected texts are what Python's `str.format` gives for the same templates.
    #[test]
    fn templates_are_filled_as_python_does_it() {
        let fields = [("question", "what is {answer}?"), ("answer", "}{{x")];
        let filled = |template: &str| fill(template, &fields);
        assert_eq!(filled("Q {question}\nA {answer}").unwrap(), "Q what is {answer}?\nA }{{x");
        assert_eq!(filled("{{\"a\": {answer}}}").unwrap(), "{\"a\": }{{x}");
        assert_eq!(filled("{{{{ }}").unwrap(), "{{ }");
        assert_eq!(filled("").unwrap(), "");
        assert!(filled("{ref_answer_1}").unwrap_err().contains("nothing for {ref_answer_1}"));
        assert!(filled("a } b").unwrap_err().contains("alone"));
        assert!(filled("a {answer").unwrap_err().contains("alone"));
    }
}
