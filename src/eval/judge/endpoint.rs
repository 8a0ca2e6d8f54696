//! An OpenAI-compatible endpoint: one question in, one answer out, tried again where that may help.
//!
//! The key is sent in the `Authorization` header and nowhere else; should the other side repeat it, messages have `[key]` in its place.

use std::time::Duration;

use serde_json::{Map, Value, json};

/// The path of the call, which every such endpoint has.
const PATH: &str = "/chat/completions";
/// Longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Largest answer that is read.
const LARGEST_ANSWER: u64 = 16 << 20;
/// Characters of the other side's own words that a message shows.
const SHOWN: usize = 300;

/// How an endpoint is reached and asked.
#[derive(Clone, Debug)]
pub struct EndpointSettings {
    /// `https://HOST/v1`, with or without `/chat/completions`.
    pub url: String,
    /// The judge's name there.
    pub model: String,
    /// Sent as a bearer token.
    pub key: Option<Key>,
    /// Most tokens of an answer.
    pub max_tokens: usize,
    /// Fields laid over each call's; null takes one away.
    pub fields: Map<String, Value>,
    /// Tries of one call before it is given up; at least 1.
    pub attempts: usize,
    /// Wait after the first failed one; it doubles from there.
    pub first_wait: Duration,
    /// Longest that one attempt may take.
    pub timeout: Duration,
}

/// A secret: it shows nothing of itself.
#[derive(Clone)]
pub struct Key(pub String);

impl std::fmt::Debug for Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.write_str("Key(..)")
    }
}

/// Why a call gave no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// Nobody there, a connection that broke off, a time that ran out.
    #[error("{url}: {problem}")]
    Unreachable {
        /// The endpoint.
        url: String,
        /// What happened.
        problem: String,
    },
    /// It answered that it will not answer.
    #[error("{url}: status {status}{}{}", said(words), advice(*status))]
    Status {
        /// The endpoint.
        url: String,
        /// HTTP's number.
        status: u16,
        /// What it said.
        words: String,
        /// The wait that it asked for.
        wait: Option<Duration>,
    },
    /// It answered something that is no chat completion.
    #[error("{url}: the answer is no chat completion: {problem}{}", said(words))]
    Nonsense {
        /// The endpoint.
        url: String,
        /// What is missing.
        problem: String,
        /// How it begins.
        words: String,
    },
}

fn said(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(": {words}") }
}

fn advice(status: u16) -> &'static str {
    match status {
        300..=399 => " (it has moved: give the address it names as --endpoint)",
        401 | 403 => " (is the key right, and --key-variable the variable that holds it?)",
        404 => " (--endpoint ends before /chat/completions, often in /v1; --judge-model must be known there)",
        _ => "",
    }
}

impl EndpointError {
    /// Whether the same call may succeed a little later.
    pub fn may_pass(&self) -> bool {
        match self {
            EndpointError::Status { status, .. } => matches!(status, 408 | 409 | 425 | 429 | 500..),
            EndpointError::Unreachable { .. } | EndpointError::Nonsense { .. } => true,
        }
    }

    /// Whether every other call would fail as well: a wrong key, address or name.
    pub fn is_final(&self) -> bool {
        matches!(self, EndpointError::Status { status: 300..=399 | 401 | 403 | 404 | 405, .. })
    }

    fn wait(&self) -> Option<Duration> {
        match self {
            EndpointError::Status { wait, .. } => *wait,
            EndpointError::Unreachable { .. } | EndpointError::Nonsense { .. } => None,
        }
    }
}

/// A judge that can be asked.
#[derive(Debug)]
pub struct Endpoint {
    settings: EndpointSettings,
    url: String,
    agent: ureq::Agent,
}

impl Endpoint {
    /// Nothing is sent yet.
    pub fn new(settings: EndpointSettings) -> Self {
        let base = settings.url.trim_end_matches('/');
        let url = if base.ends_with(PATH) { base.to_owned() } else { format!("{base}{PATH}") };
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(settings.timeout))
            .http_status_as_error(false)
            // The key goes to the endpoint that was typed and to no other.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("asft/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Self { settings, url, agent }
    }

    /// The judge's name.
    pub fn model(&self) -> &str {
        &self.settings.model
    }

    /// What the judge says; `failed` hears of each attempt that is followed by another, and of the wait until then.
    ///
    /// # Errors
    /// The last attempt's, or the first's that another attempt cannot mend.
    pub fn ask(
        &self,
        system: &str,
        user: &str,
        failed: &dyn Fn(&EndpointError, Duration),
    ) -> Result<String, EndpointError> {
        let body = self.body(system, user);
        let mut wait = self.settings.first_wait;
        for _ in 1..self.settings.attempts {
            match self.call(&body) {
                Err(error) if error.may_pass() => {
                    let pause = error.wait().unwrap_or(wait).min(LONGEST_WAIT);
                    failed(&error, pause);
                    std::thread::sleep(pause);
                    wait = (2 * wait).min(LONGEST_WAIT);
                }
                outcome => return outcome,
            }
        }
        self.call(&body)
    }

    /// FastChat's call: temperature 0, so that a judge says the same twice.
    fn body(&self, system: &str, user: &str) -> String {
        let message = |role: &str, content: &str| json!({ "role": role, "content": content });
        let mut body = Map::new();
        body.insert("model".into(), self.settings.model.as_str().into());
        body.insert("messages".into(), json!([message("system", system), message("user", user)]));
        body.insert("n".into(), 1.into());
        body.insert("temperature".into(), 0.into());
        body.insert("max_tokens".into(), self.settings.max_tokens.into());
        body.extend(self.settings.fields.clone());
        body.retain(|_, value| !value.is_null());
        Value::Object(body).to_string()
    }

    fn call(&self, body: &str) -> Result<String, EndpointError> {
        let unreachable = |error: ureq::Error| {
            let problem = match error {
                ureq::Error::Timeout(_) => {
                    format!("no answer within {} s (--timeout)", self.settings.timeout.as_secs_f64())
                }
                other => self.without_key(&other.to_string()),
            };
            EndpointError::Unreachable { url: self.url.clone(), problem }
        };
        let mut request = self.agent.post(&self.url).header("Content-Type", "application/json");
        if let Some(Key(key)) = &self.settings.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let mut response = request.send(body).map_err(unreachable)?;
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let wait = header("retry-after").and_then(|seconds| seconds.trim().parse().ok());
        let wait = wait.filter(|seconds| (0.0..1e6).contains(seconds)).map(Duration::from_secs_f64);
        let moved = header("location").map(str::to_owned);
        let text = response.body_mut().with_config().limit(LARGEST_ANSWER).lossy_utf8(true).read_to_string();
        let text = text.map_err(unreachable)?;
        if !(200..300).contains(&status) {
            let words = moved.unwrap_or_else(|| error_words(&text));
            let words = self.shown(&words);
            return Err(EndpointError::Status { url: self.url.clone(), status, words, wait });
        }
        content(&text).map_err(|problem| EndpointError::Nonsense {
            url: self.url.clone(),
            problem,
            words: self.shown(&text),
        })
    }

    /// The beginning of what the other side said, on one line.
    fn shown(&self, words: &str) -> String {
        let words = self.without_key(words).split_whitespace().collect::<Vec<_>>().join(" ");
        match words.char_indices().nth(SHOWN) {
            Some((end, _)) => format!("{}...", &words[..end]),
            None => words,
        }
    }

    fn without_key(&self, words: &str) -> String {
        match &self.settings.key {
            Some(Key(key)) if !key.is_empty() => words.replace(key, "[key]"),
            _ => words.to_owned(),
        }
    }
}

/// The message within an error, in the forms that are about; else all of it.
fn error_words(text: &str) -> String {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    let places = ["/error/message", "/message", "/detail", "/error"];
    let words = places.iter().find_map(|place| value.pointer(place).and_then(Value::as_str));
    words.unwrap_or(text).to_owned()
}

/// The text of a chat completion.
fn content(text: &str) -> Result<String, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let message = value.pointer("/choices/0/message").ok_or("it has no choices[0].message")?;
    match message.get("content").and_then(Value::as_str) {
        Some(content) => Ok(content.to_owned()),
        None => Err("its message has no content".to_owned()),
    }
}
