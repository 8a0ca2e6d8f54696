//! Tokens to text as they come: characters that are spread over tokens wait until they are whole, and text that may be the
//! beginning of a stop string waits until it is known.
//!
//! Boundary: one answer's text; who prints it is somebody else's business.

use crate::data::Tokenizer;
use crate::data::tokenizer::TextStream;

/// What a token has added to the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Text that is certain now; may be empty.
    pub text: String,
    /// A stop string is complete: the answer ends before it.
    pub stopped: bool,
}

/// The text of one answer.
pub struct AnswerText<'a> {
    tokenizer: &'a Tokenizer,
    stream: TextStream<'a>,
    stops: &'a [String],
    ids: Vec<u32>,
    text: String,
    /// Bytes of `text` that have been handed out.
    shown: usize,
    stopped: bool,
}

impl<'a> AnswerText<'a> {
    /// An answer without text yet, that any of `stops` ends.
    pub fn new(tokenizer: &'a Tokenizer, stops: &'a [String]) -> Self {
        let stream = tokenizer.text_stream();
        Self { tokenizer, stream, stops, ids: Vec::new(), text: String::new(), shown: 0, stopped: false }
    }

    /// Takes the next token.
    ///
    /// # Errors
    /// The tokenizer's message.
    pub fn push(&mut self, token: u32) -> Result<Piece, String> {
        self.ids.push(token);
        if let Some(text) = self.stream.push(token)? {
            self.text.push_str(&text);
        }
        Ok(self.release(false))
    }

    /// No more tokens come: what was held back, incomplete characters as U+FFFD.
    ///
    /// # Errors
    /// The tokenizer's message.
    pub fn finish(&mut self) -> Result<String, String> {
        if self.stopped {
            return Ok(String::new());
        }
        let whole = self.tokenizer.decode(&self.ids, true)?;
        if let Some(rest) = whole.strip_prefix(&self.text) {
            self.text.push_str(rest);
        }
        Ok(self.release(true).text)
    }

    /// The text so far, without a stop string and what follows it.
    pub fn text(&self) -> &str {
        &self.text[..self.shown]
    }

    fn release(&mut self, last: bool) -> Piece {
        let pending = &self.text[self.shown..];
        let found = self.stops.iter().filter_map(|stop| pending.find(stop.as_str())).min();
        let end = match found {
            _ if self.stopped => 0,
            Some(at) => at,
            None if last => pending.len(),
            None => pending.len() - self.stops.iter().map(|stop| overlap(pending, stop)).max().unwrap_or(0),
        };
        self.stopped |= found.is_some();
        let text = pending[..end].to_owned();
        self.shown += end;
        Piece { text, stopped: self.stopped }
    }
}

/// Bytes of the longest end of `text` that `stop` begins with.
fn overlap(text: &str, stop: &str) -> usize {
    let lengths = stop.char_indices().map(|(at, _)| at).rev();
    lengths.filter(|&len| len > 0).find(|&len| text.ends_with(&stop[..len])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::overlap;

    #[test]
    fn the_beginning_of_a_stop_string_at_the_end_of_the_text() {
        assert_eq!(overlap("one\nHu", "\nHuman:"), 3);
        assert_eq!(overlap("aab", "aabaac"), 3);
        assert_eq!(overlap("xaa", "aaa"), 2);
        assert_eq!(overlap("né", "éa"), 2);
        assert_eq!(overlap("abc", "z"), 0);
    }
}
