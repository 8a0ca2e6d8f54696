//! A conversation -> text, by the chat template of a model folder, rendered as Hugging Face renders it
//! (`apply_chat_template`): Jinja with trim_blocks and lstrip_blocks, loop controls, Python's string methods,
//! `raise_exception`, and a `tojson` that does not escape HTML.
//!
//! Boundary: text only. `strftime_now` is deliberately undefined: templates that ask `is defined` then print
//! their fixed date, and the token ids of a data set do not change at midnight.

use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value, context};
use serde_json::Map;

use super::error::DataError;
use super::message::Message;
use super::tojson::tojson;
use super::tokenizer::{Tokenizer, read_object};

const NAME: &str = "chat_template";

/// What a template is given by the program, so that a row may not.
const RESERVED: [&str; 4] = ["messages", "tools", "documents", "add_generation_prompt"];

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
}

/// What a row gives its template besides the messages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Variables {
    /// The functions that the assistant may call, as JSON schemas.
    pub tools: Option<serde_json::Value>,
    /// What the assistant may quote.
    pub documents: Option<serde_json::Value>,
    /// Variables of the template's own, such as `enable_thinking`.
    pub more: Map<String, serde_json::Value>,
}

/// Why a conversation could not be rendered.
#[derive(Debug, Clone, PartialEq)]
pub enum RenderError {
    /// The template called `raise_exception` with these words.
    Raised(String),
    /// Anything else the engine found wrong.
    Failed {
        /// In the engine's words.
        message: String,
        /// 1-based line of the template, 0 where unknown.
        line: usize,
    },
}

impl ChatTemplate {
    /// The template of a model folder: `chat_template.jinja`, else `chat_template` in `tokenizer_config.json`
    /// (where that is a list of named templates, the one named `default`); `None` where there is neither.
    ///
    /// # Errors
    /// A file that cannot be read or is not JSON, or a template that does not parse.
    pub fn from_folder(folder: &Path, tokenizer: &Tokenizer) -> Result<Option<Self>, DataError> {
        match find(folder)? {
            Some((path, source)) => Self::new(source, &path, tokenizer).map(Some),
            None => Ok(None),
        }
    }

    /// Compiles a template; `path` is what errors name. The tokenizer's special tokens (`bos_token`,
    /// `eos_token`, ...) become the template's variables of these names.
    ///
    /// # Errors
    /// [`DataError::Template`] where it does not parse.
    pub fn new(source: String, path: &Path, tokenizer: &Tokenizer) -> Result<Self, DataError> {
        let failed = |error: Error| DataError::Template {
            path: path.to_owned(),
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
        for (name, token) in tokenizer.special_tokens() {
            environment.add_global(name.clone(), token.clone());
        }
        environment.add_template_owned(NAME, neutralise_generation_tags(&source)).map_err(failed)?;
        Ok(Self { environment, source })
    }

    /// The template as it was found, to be written beside a trained model.
    pub fn source(&self) -> &str {
        &self.source
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
        let context = context! {
            messages => Value::from(Serde(messages)),
            tools => Value::from(Serde(&variables.tools)),
            documents => Value::from(Serde(&variables.documents)),
            add_generation_prompt,
            ..Value::from(Serde(&variables.more))
        };
        template.render(context).map_err(|error| render_error(&error))
    }
}

/// The file and the text of a folder's template.
fn find(folder: &Path) -> Result<Option<(PathBuf, String)>, DataError> {
    let path = folder.join("chat_template.jinja");
    match fs_err::read_to_string(&path) {
        Ok(source) => return Ok(Some((path, source))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(DataError::Read { path, source }),
    }
    let path = folder.join("tokenizer_config.json");
    let Some(config) = read_object(&path)? else { return Ok(None) };
    let source = match config.get("chat_template") {
        None | Some(serde_json::Value::Null) => return Ok(None),
        Some(serde_json::Value::String(source)) => source.clone(),
        Some(serde_json::Value::Array(named)) => {
            let default = named.iter().find(|entry| entry["name"] == "default");
            match default.and_then(|entry| entry["template"].as_str()) {
                Some(source) => source.to_owned(),
                None => {
                    let problem = "chat_template is a list without a template named \"default\"".to_owned();
                    return Err(DataError::Folder { path, problem });
                }
            }
        }
        Some(_) => {
            let problem = "chat_template must be a string or a list of named templates".to_owned();
            return Err(DataError::Folder { path, problem });
        }
    };
    Ok(Some((path, source)))
}

/// `{% generation %}` and `{% endgeneration %}` mark the assistant's text for a mask that is not made here, and
/// the engine does not know them. They become `{% if true %}` and `{% endif %}` rather than nothing, because a
/// tag also takes white space and the newline after it away.
fn neutralise_generation_tags(source: &str) -> String {
    let mut output = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}").map(|end| end + 2) else { break };
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
            return RenderError::Raised(message.clone());
        }
        cause = inner.source();
    }
    let mut message = words(error);
    if error.kind() == ErrorKind::UnknownFunction && message.contains("strftime_now") {
        message.push_str("; there is no today's date while training, or token ids would change at midnight");
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
        assert_eq!(neutralise_generation_tags("{% generation_config %}"), "{% generation_config %}");
    }
}
