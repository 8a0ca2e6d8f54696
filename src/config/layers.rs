//! Flags over environment over file.
//!
//! Each layer becomes a TOML table with the settings' names as keys; tables are laid over each other key by key. Settings
//! that exclude each other (`batch_size` and `per_device_train_batch_size`) are one choice: a layer that chooses
//! removes the other alternative from the layers under it, so that a flag can always correct a file. Within one layer
//! both alternatives stay, and `resolve` refuses them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::{Arg, Args, Command};
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::error::nearest;
use super::{ConfigError, file};

/// A struct of settings that can be read from all three places.
pub trait Arguments: Args + Serialize + DeserializeOwned {}
impl<A: Args + Serialize + DeserializeOwned> Arguments for A {}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A flag on the command line.
    Flag,
    /// This environment variable.
    Environment(String),
    /// This line of the configuration file.
    File(PathBuf, usize),
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Flag => formatter.write_str("flag"),
            Self::Environment(name) => formatter.write_str(name),
            Self::File(path, line) => write!(formatter, "{}:{line}", path.display()),
        }
    }
}

/// The layers laid over each other.
#[derive(Clone, Debug)]
pub struct Merged<A> {
    /// What remains, still unchecked.
    pub arguments: A,
    /// Where each given setting comes from; a setting that is not in it has its default.
    pub origins: BTreeMap<String, Origin>,
    /// Things that are probably mistakes but stop nothing, for the log.
    pub warnings: Vec<String>,
}

/// Lays `flags` over the `ASFT_*` variables of `environment` over the TOML `file`.
///
/// # Errors
/// A file that cannot be read, is not TOML, or has an unknown key or a value of the wrong type; a variable that its
/// setting cannot take; one setting under two of its names in one place.
pub fn merge<A: Arguments>(
    flags: &A,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    file: Option<&Path>,
) -> Result<Merged<A>, ConfigError> {
    let settings = Settings::of::<A>();
    let mut warnings = Vec::new();
    let mut layers = Vec::new();
    if let Some(path) = file {
        layers.push(settings.file_layer::<A>(path)?);
    }
    layers.push(settings.environment_layer::<A>(environment, &mut warnings)?);
    let flags = Table::try_from(flags).map_err(unrecordable)?;
    layers.push(flags.into_iter().map(|(key, value)| (key, (value, Origin::Flag))).collect());

    let mut merged = Layer::new();
    for layer in layers {
        remove_excluded(&mut merged, &layer);
        merged.extend(layer);
    }
    let mut table = Table::new();
    let mut origins = BTreeMap::new();
    for (key, (value, origin)) in merged {
        table.insert(key.clone(), value);
        origins.insert(key, origin);
    }
    let arguments = table.try_into().map_err(unrecordable)?;
    Ok(Merged { arguments, origins, warnings })
}

type Layer = BTreeMap<String, (Value, Origin)>;

fn unrecordable(error: impl fmt::Display) -> ConfigError {
    ConfigError::Unrecordable { message: error.to_string() }
}

/// Choices of one alternative: the first key of each makes the choice, the others come with it.
const CHOICES: &[[&[&str]; 2]] = &[
    [&["model"], &["init", "tokenizer"]],
    [&["batch_size"], &["per_device_train_batch_size", "gradient_accumulation_steps"]],
    [&["max_steps"], &["num_train_epochs"]],
    [&["warmup_steps"], &["warmup_ratio"]],
    [&["eval_data"], &["eval_split"]],
    [&["resume"], &["overwrite_output_dir"]],
    [&["prompt"], &["prompts"]],
    [&["prompt"], &["prompt_ids"]],
    [&["prompts"], &["prompt_ids"]],
];

/// Removes from `under` what the choices of the layer `over` exclude.
fn remove_excluded(under: &mut Layer, over: &Layer) {
    let chosen = |alternative: &[&str]| {
        over.get(alternative[0]).is_some_and(|(value, _)| *value != Value::Boolean(false))
    };
    for [one, other] in CHOICES {
        for (this, that) in [(one, other), (other, one)] {
            if chosen(this) {
                under.retain(|key, _| !that.contains(&key.as_str()));
            }
        }
    }
}

/// The settings that a struct of arguments has, as clap knows them.
struct Settings {
    /// Every name of a setting, in snake_case -> the setting's key.
    keys: BTreeMap<String, String>,
}

impl Settings {
    fn of<A: Args>() -> Self {
        let command = A::augment_args(Command::new("asft"));
        let mut keys = BTreeMap::new();
        for argument in command.get_arguments() {
            let key = argument.get_id().to_string();
            let aliases = argument.get_all_aliases().unwrap_or_default();
            keys.extend(aliases.iter().map(|alias| (alias.replace('-', "_"), key.clone())));
            keys.insert(key.clone(), key);
        }
        Self { keys }
    }

    fn nearest(&self, typed: &str) -> Option<String> {
        nearest(typed, self.keys.keys().map(String::as_str)).map(str::to_owned)
    }

    fn file_layer<A: Arguments>(&self, path: &Path) -> Result<Layer, ConfigError> {
        let mut layer = Layer::new();
        let mut written: BTreeMap<&str, String> = BTreeMap::new();
        for entry in file::read(path)? {
            let name = entry.key.replace('-', "_");
            let Some(key) = self.keys.get(&name) else {
                return Err(self.unknown_key(path, &entry));
            };
            if let Some(first) = written.insert(key, entry.key.clone()) {
                let place = format!("{}:{}", path.display(), entry.line);
                return Err(ConfigError::Twice { place, first, second: entry.key });
            }
            // Alone in a table, so that the error is this key's.
            let alone = Table::from_iter([(key.clone(), entry.value.clone())]);
            alone.try_into::<A>().map_err(|error| ConfigError::BadValue {
                path: path.to_owned(),
                line: entry.line,
                key: entry.key.clone(),
                message: in_toml_terms(error.message()),
            })?;
            layer.insert(key.clone(), (entry.value, Origin::File(path.to_owned(), entry.line)));
        }
        Ok(layer)
    }

    fn unknown_key(&self, path: &Path, entry: &file::Entry) -> ConfigError {
        let mut key = entry.key.clone();
        let mut name = entry.key.replace('-', "_");
        if let Value::Table(table) = &entry.value
            && let Some(inner) = table.keys().next()
        {
            key = format!("{key}.{inner}");
            // A known key in a table is told where keys belong; any other is compared with the known ones.
            name = if self.keys.contains_key(inner) { String::new() } else { inner.replace('-', "_") };
        }
        ConfigError::UnknownKey { path: path.to_owned(), line: entry.line, nearest: self.nearest(&name), key }
    }

    /// Every `ASFT_<NAME>` that is a setting, read as the flag would be. Other `ASFT_*` variables belong to other parts
    /// of the program; one that looks like a misspelt setting is warned about. An empty variable counts as not set.
    fn environment_layer<A: Arguments>(
        &self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        warnings: &mut Vec<String>,
    ) -> Result<Layer, ConfigError> {
        let mut layer = Layer::new();
        for (name, value) in environment {
            let Some((name, typed)) =
                name.to_str().and_then(|name| Some((name, name.strip_prefix("ASFT_")?)))
            else {
                continue;
            };
            let typed = typed.to_lowercase();
            let Some(key) = self.keys.get(&typed) else {
                if let Some(nearest) = self.nearest(&typed) {
                    let nearest = nearest.to_uppercase();
                    warnings.push(format!(
                        "environment variable {name} is no setting: did you mean ASFT_{nearest}?"
                    ));
                }
                continue;
            };
            if value.is_empty() {
                continue;
            }
            let place = || "environment".to_owned();
            if let Some((_, Origin::Environment(first))) = layer.get(key) {
                return Err(ConfigError::Twice {
                    place: place(),
                    first: first.clone(),
                    second: name.to_owned(),
                });
            }
            let value = parse_as_flag::<A>(key, &value)
                .map_err(|message| ConfigError::Environment { name: name.to_owned(), message })?;
            layer.insert(key.clone(), (value, Origin::Environment(name.to_owned())));
        }
        Ok(layer)
    }
}

/// Reads one value as clap reads the flag, so that both accept the same.
fn parse_as_flag<A: Arguments>(key: &str, value: &OsString) -> Result<Value, String> {
    let command = A::augment_args(Command::new("asft")).no_binary_name(true);
    let long = command.get_arguments().find(|argument| argument.get_id() == key).and_then(Arg::get_long);
    let mut argument = OsString::from(format!("--{}=", long.unwrap_or(key)));
    argument.push(value);
    let parsed = command.try_get_matches_from([argument]).and_then(|matches| A::from_arg_matches(&matches));
    let parsed = parsed.map_err(|error| {
        let text = error.to_string();
        let lines = text.lines().take_while(|line| !line.is_empty());
        let line = lines.map(str::trim).collect::<Vec<_>>().join(" ");
        line.trim_start_matches("error: ").to_owned()
    })?;
    let mut table = Table::try_from(&parsed).map_err(|error| error.to_string())?;
    table.remove(key).ok_or_else(|| "has no effect".to_owned())
}

/// serde names Rust's types; a person knows TOML's.
fn in_toml_terms(message: &str) -> String {
    let message = message.trim().replace('\n', ", ");
    [("expected i64", "expected an integer"), ("expected f64", "expected a number"), ("path string", "path")]
        .iter()
        .fold(message, |message, (rust, toml)| message.replace(rust, toml))
}
