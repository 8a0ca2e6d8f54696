//! A conversation with one or two endings -> the text of each, and which of it is the assistant's answer.
//!
//! What is scored of an ending: the turns of the assistant's, each from where the generation prompt before it ends to the
//! end of the turn, its end-of-turn token included. Where a turn lies is found by rendering the conversation up to it (with
//! the generation prompt) and up to its end (without); a template for which these are not prefixes of the whole is refused.
//!
//! Boundary: text and byte ranges; tokens are [`super::encode`]'s business.

use std::ops::Range;

use super::error::RowError;
use super::example::{Conversation, Part};
use super::hh;
use super::message::Message;
use super::template::{ChatTemplate, RenderError};

/// The text of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Rendered {
    /// What all endings begin with; `None` where they share no message.
    pub prompt: Option<String>,
    /// One for each answer.
    pub endings: Vec<Ending>,
}

/// Prompt and answer as one text.
#[derive(Clone, Debug, PartialEq)]
pub struct Ending {
    /// The whole text.
    pub text: String,
    /// The bytes that are scored, in order; `None`: all that follows the prompt.
    pub scored: Option<Vec<Range<usize>>>,
}

/// Renders by the template; without one, as a transcript.
pub fn render(conversation: &Conversation, template: Option<&ChatTemplate>) -> Result<Rendered, RowError> {
    let parts = &conversation.parts;
    let write = |messages: &[&Message], add_generation_prompt: bool, column: &str| match template {
        None => Ok(hh::render(messages, add_generation_prompt)),
        Some(template) => {
            let text = template.render_with(messages, add_generation_prompt, &conversation.variables);
            text.map_err(|error| refusal(error, column))
        }
    };
    // Otherwise the answers begin with what somebody else says, and the generation prompt is in none of them.
    let answered = parts.answers.iter().all(|answer| answer.content.first().is_some_and(Message::is_answer));
    let prompt: Vec<&Message> = parts.prompt.iter().collect();
    let rendered = match prompt.is_empty() {
        true => None,
        false => Some(write(&prompt, answered, &parts.prompt_column)?),
    };
    let endings = parts.answers.iter().map(|answer| {
        let all: Vec<&Message> = prompt.iter().copied().chain(&answer.content).collect();
        let text = write(&all, false, &answer.column)?;
        let simple = rendered.is_some() && answered && answer.content.len() == 1;
        let scored = match simple {
            true => None,
            false => Some(turns(&all, prompt.len(), &text, answer, |messages, add_generation_prompt| {
                write(messages, add_generation_prompt, &answer.column)
            })?),
        };
        Ok(Ending { text, scored })
    });
    let endings = endings.collect::<Result<_, _>>()?;
    Ok(Rendered { prompt: rendered, endings })
}

/// The assistant's turns from message `first` on, as bytes of `text`.
fn turns(
    all: &[&Message],
    first: usize,
    text: &str,
    answer: &Part<Vec<Message>>,
    write: impl Fn(&[&Message], bool) -> Result<String, RowError>,
) -> Result<Vec<Range<usize>>, RowError> {
    let places = (first..all.len()).filter(|place| all[*place].is_answer());
    let turns = places.map(|place| {
        let before = write(&all[..place], true)?;
        let after = write(&all[..=place], false)?;
        match text.starts_with(&before) && text.starts_with(&after) && before.len() <= after.len() {
            true => Ok(before.len()..after.len()),
            false => Err(RowError::NotPrefix { column: answer.column.clone(), turn: place + 1 }),
        }
    });
    turns.collect()
}

fn refusal(error: RenderError, column: &str) -> RowError {
    let column = column.to_owned();
    match error {
        RenderError::Raised { message, line } => RowError::TemplateRaised { column, message, line },
        RenderError::Failed { message, line } => RowError::TemplateFailed { column, message, line },
    }
}
