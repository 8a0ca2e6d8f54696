//! A conversation -> text, by a chat template, rendered as Hugging Face renders it (`apply_chat_template`): Jinja with
//! trim_blocks and lstrip_blocks, loop controls, Python's string methods, `raise_exception`, and a `tojson` that does
//! not escape HTML.
//!
//! Boundary: text only; where a template comes from is [`super::template_source`]'s business. `strftime_now` is undefined
//! unless a date is given: templates that ask `is defined` then print their fixed date, and the token ids of a data set
//! do not change at midnight.

use std::borrow::Cow;
use std::sync::OnceLock;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value, context};
use serde_json::{Map, Value as Json};

use super::error::DataError;
use super::message::Message;
use super::template_date::TemplateDate;
use super::template_source::{Origin, TemplateText};
use super::tojson::tojson;
use super::tokenizer::Tokenizer;

const NAME: &str = "chat_template";

/// What a template is given by the program, so that a row may not.
const RESERVED: [&str; 4] = ["messages", "tools", "documents", "add_generation_prompt"];

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    text: TemplateText,
    takes_parts: OnceLock<bool>,
}

/// A chat template that a trained model is to carry in place of what its folder had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GivenTemplate<'a> {
    /// Jinja.
    pub source: &'a str,
    /// Token id that ends the assistant's turn, if a special token does.
    pub end_of_turn: Option<u32>,
}

/// What a row gives its template besides the messages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Variables {
    /// The functions that the assistant may call, as JSON schemas.
    pub tools: Option<Json>,
    /// What the assistant may quote.
    pub documents: Option<Json>,
    /// Variables of the template's own, such as `enable_thinking`.
    pub more: Map<String, Json>,
}

/// Why a conversation could not be rendered.
#[derive(Debug, Clone, PartialEq)]
pub enum RenderError {
    /// The template called `raise_exception`.
    Raised {
        /// With these words.
        message: String,
        /// 1-based line of the template, 0 where unknown.
        line: usize,
    },
    /// Anything else that is wrong.
    Failed {
        /// In the engine's words.
        message: String,
        /// 1-based line of the template, 0 where unknown.
        line: usize,
    },
}

impl ChatTemplate {
    /// Compiles a template. The tokenizer's special tokens (`bos_token`, `eos_token`, ...) become its variables of these
    /// names; `date` is what `strftime_now` gives.
    ///
    /// # Errors
    /// [`DataError::Template`] where it does not parse.
    pub fn new(
        text: TemplateText,
        tokenizer: &Tokenizer,
        date: Option<TemplateDate>,
    ) -> Result<Self, DataError> {
        let failed = |error: Error| DataError::Template {
            origin: text.origin.clone(),
            line: error.line().unwrap_or(0),
            message: words(&error),
        };
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(failed)?;
        environment.set_syntax(syntax);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(python_method);
        environment.add_filter("tojson", tojson);
        environment.add_filter("trim", trim);
        environment.add_function("raise_exception", raise_exception);
        if let Some(date) = date {
            environment.add_function("strftime_now", move |format: String| {
                date.strftime(&format).map_err(|message| Error::new(ErrorKind::InvalidOperation, message))
            });
        }
        for (name, token) in tokenizer.special_tokens() {
            environment.add_global(name.clone(), token.clone());
        }
        let source = neutralise_generation_tags(&unix_lines(&text.source));
        environment.add_template_owned(NAME, source).map_err(failed)?;
        Ok(Self { environment, text, takes_parts: OnceLock::new() })
    }

    /// The template as it was found, to be written beside a trained model.
    pub fn source(&self) -> &str {
        &self.text.source
    }

    /// Where it was found.
    pub fn origin(&self) -> &Origin {
        &self.text.origin
    }

    /// The text of a conversation; with `add_generation_prompt`, up to where the assistant's answer begins.
    ///
    /// # Errors
    /// [`RenderError`] where the template refuses the messages or fails on them.
    pub fn render(&self, messages: &[&Message], add_generation_prompt: bool) -> Result<String, RenderError> {
        self.render_with(messages, add_generation_prompt, &Variables::default())
    }

    /// [`Self::render`] with more variables.
    ///
    /// # Errors
    /// As [`Self::render`], and where a row's own variable has the name of one that the program gives.
    pub fn render_with(
        &self,
        messages: &[&Message],
        add_generation_prompt: bool,
        variables: &Variables,
    ) -> Result<String, RenderError> {
        if let Some(name) = RESERVED.iter().find(|name| variables.more.contains_key(**name)) {
            let message = format!("chat_template_kwargs may not hold \"{name}\"");
            return Err(RenderError::Failed { message, line: 0 });
        }
        let template = self.environment.get_template(NAME).map_err(|error| render_error(&error))?;
        let messages: Vec<_> =
            messages.iter().map(|message| self.fields(message)).collect::<Result<_, _>>()?;
        // Templates take an empty list for functions to call.
        let tools =
            variables.tools.as_ref().filter(|tools| tools.as_array().is_none_or(|list| !list.is_empty()));
        let context = context! {
            messages => Value::from(Serde(messages)),
            tools => Value::from(Serde(tools)),
            documents => Value::from(Serde(&variables.documents)),
            add_generation_prompt,
            ..Value::from(Serde(&variables.more))
        };
        template.render(context).map_err(|error| render_error(&error))
    }

    /// A message as the template sees it.
    fn fields<'a>(&self, message: &'a Message) -> Result<Cow<'a, Map<String, Json>>, RenderError> {
        let mut fields = as_transformers_has_it(message.fields());
        if let Some(Json::Array(parts)) = fields.get("content")
            && !self.takes_parts()
        {
            let text = joined(parts).map_err(|message| RenderError::Failed { message, line: 0 })?;
            fields.to_mut().insert("content".to_owned(), text.into());
        }
        Ok(fields)
    }

    /// Whether the template knows content as a list of parts. Many would write such a list down as it looks in code.
    fn takes_parts(&self) -> bool {
        let render = |content: Json| {
            let mut fields = Map::new();
            fields.insert("role".to_owned(), "user".into());
            fields.insert("content".to_owned(), content);
            let template = self.environment.get_template(NAME).ok()?;
            let messages = Value::from(Serde([fields]));
            template
                .render(context! { messages, tools => (), documents => (), add_generation_prompt => true })
                .ok()
        };
        *self.takes_parts.get_or_init(|| {
            const TEXT: &str = "What is it?";
            let parts = render(serde_json::json!([{ "type": "text", "text": TEXT }]));
            parts.is_some() && parts == render(TEXT.into())
        })
    }

    /// Tokens written in the template, in the form `<|...|>`, that the tokenizer does not have as single special tokens:
    /// each would be encoded as several ordinary ones.
    pub fn unknown_special_tokens(&self, tokenizer: &Tokenizer) -> Vec<String> {
        let mut unknown = Vec::new();
        for token in written_tokens(self.source()) {
            let known = tokenizer.token_to_id(token).is_some_and(|id| tokenizer.is_special(id));
            if !known && !unknown.iter().any(|other| other == token) {
                unknown.push(token.to_owned());
            }
        }
        unknown
    }

    /// The special token that follows an assistant's words: where generation is to stop. `None` where the template ends
    /// turns with text, or cannot render the simplest conversation.
    pub fn end_of_turn(&self, tokenizer: &Tokenizer) -> Option<u32> {
        const ANSWER: &str = "It-is-42";
        let messages = [Message::new("user", "What is it?"), Message::new("assistant", ANSWER)];
        let text = self.render(&messages.each_ref(), false).ok()?;
        let (_, after) = text.rsplit_once(ANSWER)?;
        let ends = |id: &u32| tokenizer.is_special(*id) && Some(*id) != tokenizer.bos_id();
        tokenizer.encode(after).ok()?.into_iter().find(ends)
    }
}

/// A message's fields with what transformers changes in them before rendering: fields that are null are left out, and the
/// assistant's reasoning is found under the names that templates look for.
fn as_transformers_has_it(fields: &Map<String, Json>) -> Cow<'_, Map<String, Json>> {
    const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
    let mut fields = Cow::Borrowed(fields);
    if fields.values().any(Json::is_null) {
        fields.to_mut().retain(|_, value| !value.is_null());
    }
    if let Some(reasoning) = REASONING.iter().find_map(|name| fields.get(*name)).cloned() {
        let fields = fields.to_mut();
        let thinking = fields.shift_remove("thinking").unwrap_or_else(|| reasoning.clone());
        fields.shift_insert(0, "thinking".to_owned(), thinking);
        fields.insert("reasoning_content".to_owned(), reasoning);
    }
    fields
}

/// The text of content that is a list of parts.
fn joined(parts: &[Json]) -> Result<String, String> {
    let text = |part: &Json| match part {
        Json::String(text) => Ok(text.clone()),
        part => match (part["type"].as_str(), part["text"].as_str()) {
            (Some("text") | None, Some(text)) => Ok(text.to_owned()),
            (kind, _) => {
                Err(format!("content of type {:?}, and the template takes only text", kind.unwrap_or("none")))
            }
        },
    };
    parts.iter().map(text).collect()
}

/// What looks like a special token: `<|`, a name without spaces, quotes or braces, `|>`.
fn written_tokens(source: &str) -> impl Iterator<Item = &str> {
    let inside = |c: char| !c.is_whitespace() && !"<>|'\"{}".contains(c);
    source.match_indices("<|").filter_map(move |(start, _)| {
        let name = &source[start + 2..];
        let length = name.find(|c| !inside(c)).filter(|length| *length > 0)?;
        name[length..].starts_with("|>").then(|| &source[start..start + 2 + length + 2])
    })
}

/// Jinja2 reads every kind of line end as `\n`.
fn unix_lines(source: &str) -> String {
    source.replace("\r\n", "\n").replace('\r', "\n")
}

/// `{% generation %}` and `{% endgeneration %}` mark the assistant's text for a mask that is not made here, and
/// the engine does not know them. They become `{% if true %}` and `{% endif %}` rather than nothing, because a
/// tag also takes white space and the newline after it away.
fn neutralise_generation_tags(source: &str) -> String {
    let mut output = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        // Behind the opening: "{%}" is no tag.
        let Some(length) = rest[start + 2..].find("%}").map(|end| end + 4) else { break };
        output.push_str(&rest[..start]);
        let tag = &rest[start..start + length];
        let body = tag[2..tag.len() - 2].trim_matches(['-', '+']).trim();
        let replacement = match body {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        match replacement {
            Some(replacement) => {
                output.push_str(&tag.replace(body, replacement));
                rest = &rest[start + length..];
            }
            // Only the opening is passed over: inside a string or a comment `%}` may not be this tag's end.
            None => {
                output.push_str("{%");
                rest = &rest[start + 2..];
            }
        }
    }
    output.push_str(rest);
    output
}

/// What `raise_exception` was called with, carried through the engine as an error's source.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

fn render_error(error: &Error) -> RenderError {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(Raised(message)) = inner.downcast_ref() {
            return RenderError::Raised { message: message.clone(), line: error.line().unwrap_or(0) };
        }
        cause = inner.source();
    }
    let mut message = words(error);
    if error.kind() == ErrorKind::UnknownFunction && message.contains("strftime_now") {
        message.push_str(
            "; there is no today's date while training, or token ids would change at midnight: \
             give one with --template-date YYYY-MM-DD",
        );
    }
    RenderError::Failed { message, line: error.line().unwrap_or(0) }
}

/// The engine's message without its own file and line.
fn words(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

/// What Python's `str.strip` takes away: Unicode white space and, unlike Rust, the separators 0x1c to 0x1f.
fn python_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\x1c'..='\x1f')
}

fn trim(value: String, characters: Option<String>) -> String {
    match characters {
        Some(characters) => value.trim_matches(|c| characters.contains(c)).to_owned(),
        None => value.trim_matches(python_space).to_owned(),
    }
}

/// Python's methods on strings, lists and dictionaries. Only bare `strip` differs from the library's.
fn python_method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if let (Some(text), []) = (value.as_str(), args) {
        match method {
            "strip" => return Ok(text.trim_matches(python_space).into()),
            "lstrip" => return Ok(text.trim_start_matches(python_space).into()),
            "rstrip" => return Ok(text.trim_end_matches(python_space).into()),
            _ => {}
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

#[cfg(test)]
mod tests {
    use super::neutralise_generation_tags;

    #[test]
    fn generation_tags_keep_their_white_space_control() {
        let source = "{% if x %}{%- generation -%}a{% endgeneration %}{%+ generation%}{{ '{% x' }}";
        let expected = "{% if x %}{%- if true -%}a{% endif %}{%+ if true%}{{ '{% x' }}";
        assert_eq!(neutralise_generation_tags(source), expected);
        for other in ["{% generation_config %}", "{%}", "{%%}", "{{ '{%}' }}{% if x %}%}", "{%"] {
            assert_eq!(neutralise_generation_tags(other), other);
        }
    }
}
