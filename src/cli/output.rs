//! Log, progress and errors on stderr, as text or JSON lines; results on stdout.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::LazyLock;

use anyhow::Context;
use clap::{Args, ColorChoice, ValueEnum};
use indicatif::{MultiProgress, ProgressDrawTarget};
use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use super::exit;

/// Flags that every command has.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Messages")]
pub struct MessageArguments {
    /// Say less on stderr: warnings and errors; twice: errors only
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "verbose")]
    quiet: u8,
    /// Say more on stderr; twice: everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Form of the messages on stderr
    #[arg(
        long,
        global = true,
        value_name = "FORM",
        value_enum,
        default_value = "text",
        env = "ASFT_LOG_FORMAT",
        hide_env = true
    )]
    log_format: LogFormat,
    /// Colours; auto: on a terminal, unless NO_COLOR is set
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        value_enum,
        default_value = "auto",
        env = "ASFT_COLOR",
        hide_env = true
    )]
    color: Color,
}

impl MessageArguments {
    /// Colours of results on stdout: as on stderr what `--color` says; by themselves on a terminal, unless NO_COLOR is set,
    /// or where CLICOLOR_FORCE is.
    pub fn stdout_color(&self) -> anstream::ColorChoice {
        match self.color {
            Color::Auto => anstream::AutoStream::choice(&io::stdout()),
            Color::Always => anstream::ColorChoice::Always,
            Color::Never => anstream::ColorChoice::Never,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object per line
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// Colours of clap's own messages, which are printed when the command line cannot be parsed: so `--color` is looked for
/// by hand.
pub fn color_of_command_line(arguments: &[std::ffi::OsString]) -> ColorChoice {
    let words: Vec<&str> =
        arguments.iter().take_while(|word| *word != "--").filter_map(|word| word.to_str()).collect();
    let separate = words.windows(2).rev().find(|pair| pair[0] == "--color").map(|pair| pair[1]);
    let joined = words.iter().rev().find_map(|word| word.strip_prefix("--color="));
    match joined.or(separate) {
        Some("always") => ColorChoice::Always,
        Some("never") => ColorChoice::Never,
        _ => ColorChoice::Auto,
    }
}

/// How messages are shown.
#[derive(Clone, Copy, Debug)]
pub struct Messages {
    format: LogFormat,
    color: bool,
    filter: &'static str,
}

impl Messages {
    /// What the flags ask for on this stderr.
    pub fn new(arguments: &MessageArguments) -> Self {
        let color = match arguments.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal_has_colors(),
        };
        let filter = match (arguments.quiet, arguments.verbose) {
            (0, 0) => "info",
            (1, _) => "warn",
            (2.., _) => "error",
            (0, 1) => "info,asft=debug",
            (0, 2..) => "trace",
        };
        Self { format: arguments.log_format, color: color && arguments.log_format == LogFormat::Text, filter }
    }

    /// Sends `tracing` events to stderr from now on. `ASFT_LOG` (in the form of `RUST_LOG`) beats `-q` and `-v`.
    pub fn install_log(&self) {
        if self.filter == "warn" || self.filter == "error" || self.format == LogFormat::Json {
            progress().set_draw_target(ProgressDrawTarget::hidden());
        }
        let typed = std::env::var("ASFT_LOG").ok().filter(|typed| !typed.is_empty());
        let typed = typed.map(EnvFilter::try_new).transpose();
        let (filter, mistake) = match typed {
            Ok(Some(filter)) => (filter, None),
            Ok(None) => (EnvFilter::new(self.filter), None),
            Err(error) => (EnvFilter::new(self.filter), Some(error)),
        };
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(self.color)
            .with_writer(AboveProgress)
            .event_format(MessageFormat { json: self.format == LogFormat::Json })
            .init();
        if let Some(error) = mistake {
            tracing::warn!("environment variable ASFT_LOG is ignored: {error}");
        }
    }

    /// Prints a failure and gives its exit code: `error:`, one line for each cause, and `hint:` where there is one.
    pub fn report(&self, error: &anyhow::Error) -> ExitCode {
        if exit::is_broken_pipe(error) {
            return ExitCode::SUCCESS;
        }
        let mut lines: Vec<String> = error.chain().map(ToString::to_string).collect();
        // Some messages end in their cause already.
        lines.dedup_by(|cause, message| message.ends_with(cause.as_str()));
        let hint = exit::hint(error);
        let text = match self.format {
            LogFormat::Json => {
                let mut object = json!({ "level": "error", "message": lines[0], "causes": lines[1..] });
                if let Some(hint) = hint {
                    object["hint"] = hint.into();
                }
                format!("{object}\n")
            }
            LogFormat::Text => {
                let mut text = format!("{} {}\n", self.painted("error:", Level::ERROR), lines[0]);
                text.extend(lines[1..].iter().map(|cause| format!("  caused by: {cause}\n")));
                text.extend(hint.map(|hint| format!("{} {hint}\n", self.painted("hint:", Level::INFO))));
                text
            }
        };
        // Where stderr is gone as well there is nobody to tell.
        let _ = AboveProgress.write_all(text.as_bytes());
        exit::code(error)
    }

    fn painted(&self, label: &str, level: Level) -> String {
        if self.color { format!("{}{label}\x1b[0m", color_of(level)) } else { label.to_owned() }
    }
}

fn terminal_has_colors() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal()
        && !set("NO_COLOR")
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn color_of(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[1;31m",
        Level::WARN => "\x1b[1;33m",
        Level::INFO => "\x1b[1;36m",
        _ => "\x1b[2m",
    }
}

/// The progress bars of the program: those that are added here and the log do not overwrite each other. Hidden where stderr
/// is not a terminal.
pub fn progress() -> &'static MultiProgress {
    static PROGRESS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);
    &PROGRESS
}

/// Prints a result to stdout.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("cannot write to stdout")
}

/// stderr, with the progress bars out of the way while a message is written.
#[derive(Clone, Copy)]
struct AboveProgress;

impl Write for AboveProgress {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        progress().suspend(|| io::stderr().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl MakeWriter<'_> for AboveProgress {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}

/// One event on one line: `warning: message key=value`, or a JSON object with the fields as keys.
struct MessageFormat {
    json: bool,
}

impl<S, N> FormatEvent<S, N> for MessageFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        if fields.is_raw_traffic() {
            return Ok(());
        }
        let level = *event.metadata().level();
        if self.json {
            let mut time = String::new();
            SystemTime.format_time(&mut Writer::new(&mut time))?;
            let mut object = Map::new();
            object.insert("time".to_owned(), time.into());
            object.insert("level".to_owned(), name_of(level).into());
            object.insert("message".to_owned(), fields.message.into());
            object.extend(fields.others);
            return writeln!(writer, "{}", Value::Object(object));
        }
        if level != Level::INFO {
            let name = name_of(level);
            if writer.has_ansi_escapes() {
                write!(writer, "{}{name}:\x1b[0m ", color_of(level))?;
            } else {
                write!(writer, "{name}: ")?;
            }
        }
        write!(writer, "{}", fields.message)?;
        for (key, value) in &fields.others {
            match value {
                Value::String(text) => write!(writer, " {key}={text}")?,
                value => write!(writer, " {key}={value}")?,
            }
        }
        writeln!(writer)
    }
}

fn name_of(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// The fields of an event, as JSON values.
#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Fields {
    /// Whether a library shows the very bytes that it sends, among them keys. They are in no log, whatever is asked for.
    fn is_raw_traffic(&self) -> bool {
        let target = self.others.get("log.target").and_then(Value::as_str);
        target.is_some_and(|target| target.starts_with("ureq_proto"))
    }

    fn insert(&mut self, field: &Field, value: Value) {
        self.others.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.insert(field, format!("{value:?}").into());
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message = value.to_owned();
        } else {
            self.insert(field, value.into());
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no NaN and no infinity: they are written as text.
        let number = serde_json::Number::from_f64(value);
        self.insert(field, number.map_or_else(|| value.to_string().into(), Value::Number));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value.into());
    }
}
