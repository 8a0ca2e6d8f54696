//! HH-RLHF transcripts: `"\n\nHuman: ...\n\nAssistant: ..."` <-> messages (anthropics/hh-rlhf, arXiv 2204.05862).
//!
//! A turn begins at a line that follows a blank line and starts with `Human:` or `Assistant:`; the same words anywhere else
//! are what somebody said. White space around a turn's words is not part of them. Consecutive turns of one role, which the
//! data set has, are one turn whose parts a blank line separates, because chat templates want the roles to alternate. (Words that
//! would begin a turn behind a blank line follow a line break: written and parsed again, a transcript says the same.)
//!
//! Boundary: one text and its turns; what two transcripts share is [`super::prompt`]'s business.

use super::message::{ASSISTANT, Message, USER};

const MARKS: [(&str, &str); 2] = [("\n\nHuman:", USER), ("\n\nAssistant:", ASSISTANT)];

/// Whether a text is a transcript: whether it begins with a turn.
pub fn is_transcript(text: &str) -> bool {
    MARKS.iter().any(|(mark, _)| text.starts_with(mark))
}

/// The turns of a transcript; `None` where the text does not begin with one.
pub fn parse(text: &str) -> Option<Vec<Message>> {
    let mut rest = text;
    let mut turns: Vec<(&str, String)> = Vec::new();
    while let Some((mark, role)) = MARKS.into_iter().find(|(mark, _)| rest.starts_with(mark)) {
        rest = &rest[mark.len()..];
        let end = MARKS.iter().filter_map(|(mark, _)| rest.find(mark)).min().unwrap_or(rest.len());
        let said = rest[..end].trim();
        rest = &rest[end..];
        match turns.last_mut() {
            Some((last, words)) if *last == role => {
                if !words.is_empty() && !said.is_empty() {
                    let begins_a_turn = MARKS.iter().any(|(mark, _)| said.starts_with(mark.trim_start()));
                    words.push_str(if begins_a_turn { "\n" } else { "\n\n" });
                }
                words.push_str(said);
            }
            _ => turns.push((role, said.to_owned())),
        }
    }
    let messages = turns.into_iter().map(|(role, words)| Message::new(role, &words));
    is_transcript(text).then(|| messages.collect())
}

/// The transcript of these messages, every role but the assistant's as the human's; with `add_generation_prompt`, up to
/// where the assistant's answer begins.
pub fn render(messages: &[&Message], add_generation_prompt: bool) -> String {
    let [(human, _), (assistant, _)] = MARKS;
    let mut text = String::new();
    for message in messages {
        text.push_str(if message.is_answer() { assistant } else { human });
        text.push(' ');
        text.push_str(&message.content());
    }
    if add_generation_prompt {
        text.push_str(assistant);
    }
    text
}
