//! Which chat template is used, and its text: the one that was asked for, else the model folder's.
//!
//! Boundary: finds text. [`super::template`] compiles and renders it.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::DataError;
use super::tokenizer::read_object;

/// A template's file in a model folder, which wins over [`CONFIG_KEY`].
pub const TEMPLATE_FILE: &str = "chat_template.jinja";
/// The key of a template in `tokenizer_config.json`.
pub const CONFIG_KEY: &str = "chat_template";

/// A template that comes with the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuiltIn {
    /// Llama 3's own format.
    Llama3,
    /// `<|im_start|>role` ... `<|im_end|>`.
    Chatml,
}

impl BuiltIn {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Llama3, Self::Chatml];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama3 => "llama3",
            Self::Chatml => "chatml",
        }
    }

    /// Its text.
    pub fn source(self) -> &'static str {
        match self {
            Self::Llama3 => include_str!("templates/llama3.jinja"),
            Self::Chatml => include_str!("templates/chatml.jinja"),
        }
    }
}

/// The template that somebody asked for in place of the model folder's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplateChoice {
    /// One that comes with the program.
    BuiltIn(BuiltIn),
    /// A file of Jinja.
    File(PathBuf),
}

impl TemplateChoice {
    /// A built-in template's name, else a path (`./llama3` for a file of such a name).
    pub fn parse(typed: &Path) -> Self {
        let built_in = BuiltIn::ALL.into_iter().find(|built_in| Path::new(built_in.name()) == typed);
        built_in.map_or_else(|| Self::File(typed.to_owned()), Self::BuiltIn)
    }

    /// What [`Self::parse`] reads back as this choice.
    pub fn to_path(&self) -> PathBuf {
        match self {
            Self::BuiltIn(built_in) => built_in.name().into(),
            Self::File(path) => path.clone(),
        }
    }

    /// The template.
    ///
    /// # Errors
    /// A file that cannot be read or is not UTF-8.
    pub fn load(&self) -> Result<TemplateText, DataError> {
        match self {
            Self::BuiltIn(built_in) => Ok(TemplateText {
                source: built_in.source().to_owned(),
                origin: Origin::BuiltIn(built_in.name()),
            }),
            Self::File(path) => {
                let source = fs_err::read_to_string(path)
                    .map_err(|source| DataError::Read { path: path.clone(), source })?;
                Ok(TemplateText { source, origin: Origin::File(path.clone()) })
            }
        }
    }
}

/// Where a template was found, as errors name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It came with the program.
    BuiltIn(&'static str),
    /// A file of its own.
    File(PathBuf),
    /// Key [`CONFIG_KEY`] of this `tokenizer_config.json`.
    Config(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn(name) => write!(formatter, "the built-in chat template {name}"),
            Self::File(path) => path.display().fmt(formatter),
            Self::Config(path) => write!(formatter, "{} (chat_template)", path.display()),
        }
    }
}

/// A template as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateText {
    /// Jinja.
    pub source: String,
    /// Where it was found.
    pub origin: Origin,
}

impl TemplateText {
    /// The template of a model folder: [`TEMPLATE_FILE`], else [`CONFIG_KEY`] in `tokenizer_config.json` (where that is a
    /// list of named templates, the one named `default`); `None` where there is neither.
    ///
    /// # Errors
    /// A file that cannot be read or is not what it must be.
    pub fn of_folder(folder: &Path) -> Result<Option<Self>, DataError> {
        let path = folder.join(TEMPLATE_FILE);
        match fs_err::read_to_string(&path) {
            Ok(source) => return Ok(Some(Self { source, origin: Origin::File(path) })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(DataError::Read { path, source }),
        }
        let path = folder.join("tokenizer_config.json");
        let Some(config) = read_object(&path)? else { return Ok(None) };
        let source = match config.get(CONFIG_KEY) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(source)) => source.clone(),
            Some(Value::Array(named)) => match default_of(named) {
                Ok(source) => source,
                Err(problem) => return Err(DataError::Folder { path, problem }),
            },
            Some(_) => {
                let problem = "chat_template must be a string or a list of named templates".to_owned();
                return Err(DataError::Folder { path, problem });
            }
        };
        Ok(Some(Self { source, origin: Origin::Config(path) }))
    }
}

/// Of a list of named templates the one that renders where none is asked for by name.
fn default_of(named: &[Value]) -> Result<String, String> {
    let default = named.iter().find(|entry| entry["name"] == "default");
    if let Some(source) = default.and_then(|entry| entry["template"].as_str()) {
        return Ok(source.to_owned());
    }
    let names: Vec<&str> = named.iter().filter_map(|entry| entry["name"].as_str()).collect();
    Err(format!(
        "chat_template is a list without a template named \"default\" (its names: {}); save the one you want as a file \
         and give it with --chat-template FILE",
        names.join(", ")
    ))
}
