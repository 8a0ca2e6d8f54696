//! Names of the Hugging Face Hub (`ORG/NAME`, `ORG/NAME@REVISION`) -> folders of the local cache.
//!
//! Boundary: looks and never fetches; where nothing is found, the error holds the command that does. What lies in
//! the folder is [`super::folder`]'s business. The layout of the cache is that of `huggingface_hub`:
//! `models--ORG--NAME/refs/REVISION` holds a commit, `models--ORG--NAME/snapshots/COMMIT` its files.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use super::CheckpointError;

/// The branch that a name without a revision means.
const DEFAULT_REVISION: &str = "main";

/// A model's name on the Hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubName {
    /// `ORG/NAME`.
    pub repository: String,
    /// A branch, a tag or a commit; `None`: the branch `main`.
    pub revision: Option<String>,
}

/// A model folder, found by whatever it was called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Where its files are.
    pub folder: PathBuf,
    /// For one of the cache: its name with the commit as revision, which means these very files for ever.
    pub pinned: Option<HubName>,
}

impl HubName {
    /// Reads `ORG/NAME` or `ORG/NAME@REVISION` by the Hub's rules for names; `None` for anything else, so for every
    /// path that begins with `/`, `./` or `../`, has more than one `/`, or none.
    pub fn parse(typed: &Path) -> Option<Self> {
        let typed = typed.to_str()?;
        let (repository, revision) = match typed.split_once('@') {
            Some((repository, revision)) => (repository, Some(revision)),
            None => (typed, None),
        };
        let (organisation, name) = repository.split_once('/')?;
        if ![organisation, name].into_iter().all(is_name) || revision.is_some_and(|name| !is_revision(name)) {
            return None;
        }
        Some(Self { repository: repository.to_owned(), revision: revision.map(str::to_owned) })
    }

    /// The command that fetches it.
    pub fn download_command(&self) -> String {
        match &self.revision {
            Some(revision) => format!("hf download {} --revision {revision}", self.repository),
            None => format!("hf download {}", self.repository),
        }
    }

    /// The snapshot's commit and folder in a cache, or what is there instead.
    fn find(&self, cache: &Path) -> Result<(String, PathBuf), String> {
        let home = cache.join(format!("models--{}", self.repository.replace('/', "--")));
        let at = cache.display();
        if !home.is_dir() {
            return Err(format!("nor such a model in the Hugging Face cache {at}"));
        }
        let revision = self.revision.as_deref().unwrap_or(DEFAULT_REVISION);
        let commit = match std::fs::read_to_string(home.join("refs").join(revision)) {
            Ok(commit) => commit.trim().to_owned(),
            Err(_) => revision.to_owned(),
        };
        let folder = home.join("snapshots").join(&commit);
        if !commit.is_empty() && folder.is_dir() {
            return Ok((commit, folder));
        }
        let others = snapshots(&home);
        Err(match others.as_slice() {
            [] => format!("and the Hugging Face cache {at} holds no snapshot of that model"),
            others => format!(
                "and the Hugging Face cache {at} holds that model only at {} (write {}@{} to use that)",
                others.join(", "),
                self.repository,
                others[0]
            ),
        })
    }
}

impl fmt::Display for HubName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.revision {
            Some(revision) => write!(formatter, "{}@{revision}", self.repository),
            None => formatter.write_str(&self.repository),
        }
    }
}

/// The folder that a path or a Hub name means. What exists as a path is that path, whatever it looks like; so is
/// what cannot be a name, for others to say that it is not there. The snapshot taken is logged.
///
/// # Errors
/// [`CheckpointError::NoModel`] for a name that is neither a folder nor in the cache, with the command that fetches it.
pub fn locate(typed: &Path) -> Result<Located, CheckpointError> {
    locate_in(typed, cache_folder(|name| env::var_os(name)).as_deref())
}

/// [`locate`] with a cache of the caller's choice; `None`: this machine has none.
///
/// # Errors
/// As [`locate`].
pub fn locate_in(typed: &Path, cache: Option<&Path>) -> Result<Located, CheckpointError> {
    let as_path = || Located { folder: typed.to_owned(), pinned: None };
    let Some(name) = HubName::parse(typed).filter(|_| !typed.exists()) else { return Ok(as_path()) };
    let found = match cache {
        Some(cache) => name.find(cache),
        None => {
            Err("and no Hugging Face cache: neither HF_HUB_CACHE, HF_HOME nor a home folder is known".into())
        }
    };
    match found {
        Ok((commit, folder)) => {
            tracing::info!("{name}: snapshot {commit} of the Hugging Face cache, {}", folder.display());
            let pinned = Some(HubName { revision: Some(commit), ..name });
            Ok(Located { folder, pinned })
        }
        Err(problem) => Err(CheckpointError::NoModel {
            path: typed.to_owned(),
            problem: format!(
                "there is no such folder, {problem}. Fetch it with: {}",
                name.download_command()
            ),
        }),
    }
}

/// [`locate`], and `typed` becomes the pinned name, so that a record of it means the same files later.
///
/// # Errors
/// As [`locate`].
pub fn locate_and_pin(typed: &mut PathBuf) -> Result<PathBuf, CheckpointError> {
    let Located { folder, pinned } = locate(typed)?;
    if let Some(pinned) = pinned {
        *typed = pinned.to_string().into();
    }
    Ok(folder)
}

/// Takes the commit over that a run recorded for the model, where only `ORG/NAME` was typed: a branch may have moved
/// since the run began. A revision that was typed is left as it is.
pub fn adopt_commit(typed: &mut PathBuf, recorded: &Path) {
    let (Some(name), Some(pinned)) = (HubName::parse(typed), HubName::parse(recorded)) else { return };
    let same = name.revision.is_none() && name.repository == pinned.repository && pinned.revision.is_some();
    if same && !typed.exists() {
        *typed = recorded.to_owned();
    }
}

/// The folder of the cache, by the variables that `huggingface_hub` reads, in its order.
pub fn cache_folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = set("HOME");
    let expand = |path: PathBuf| match (path.strip_prefix("~"), &home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    };
    if let Some(hub) = set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE")) {
        return Some(expand(hub));
    }
    let user_cache = || set("XDG_CACHE_HOME").or_else(|| home.as_ref().map(|home| home.join(".cache")));
    let hugging_face = set("HF_HOME").or_else(|| user_cache().map(|cache| cache.join("huggingface")))?;
    Some(expand(hugging_face).join("hub"))
}

/// The commits in a model's folder of the cache, sorted.
fn snapshots(home: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(home.join("snapshots")).into_iter().flatten().flatten();
    let mut commits: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    commits.sort();
    commits
}

/// One part of `ORG/NAME`, as `huggingface_hub.utils.validate_repo_id` has it.
fn is_name(part: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    part.len() <= 96
        && part.starts_with(word)
        && part.ends_with(word)
        && part.chars().all(|c| word(c) || c == '-' || c == '.')
        && !part.contains("--")
        && !part.contains("..")
}

/// A branch, a tag, a commit, or `refs/pr/3`; nothing that leads out of the folder of references.
fn is_revision(name: &str) -> bool {
    let part = |part: &str| !part.trim_matches('.').is_empty();
    name.split('/').all(part) && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_./+".contains(c))
}
