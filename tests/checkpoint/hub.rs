//! Names of the Hub against a made-up cache in the layout of `huggingface_hub`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use asft::checkpoint::hub::{HubName, Located, adopt_commit, cache_folder, locate_in};
use tempfile::TempDir;

const OLD: &str = "0123456789abcdef0123456789abcdef01234567";
const NEW: &str = "fedcba9876543210fedcba9876543210fedcba98";

/// A cache with two snapshots of `org/Small-1.0`, `main` at the newer one, the tag `v1` and a pull request at the older.
fn cache() -> TempDir {
    let cache = TempDir::new().unwrap();
    let home = cache.path().join("models--org--Small-1.0");
    for commit in [OLD, NEW] {
        fs::create_dir_all(home.join("snapshots").join(commit)).unwrap();
    }
    fs::create_dir_all(home.join("refs/refs/pr")).unwrap();
    fs::write(home.join("refs/main"), NEW).unwrap();
    fs::write(home.join("refs/v1"), format!("{OLD}\n")).unwrap();
    fs::write(home.join("refs/refs/pr/1"), OLD).unwrap();
    cache
}

fn found(cache: &TempDir, typed: &str) -> (String, String) {
    let Located { folder, pinned } = locate_in(typed.as_ref(), Some(cache.path())).unwrap();
    let folder = folder.strip_prefix(cache.path().join("models--org--Small-1.0/snapshots")).unwrap();
    (folder.display().to_string(), pinned.unwrap().to_string())
}

fn refused(cache: Option<&TempDir>, typed: &str) -> String {
    let message = locate_in(typed.as_ref(), cache.map(TempDir::path)).unwrap_err().to_string();
    match cache {
        Some(cache) => message.replace(cache.path().to_str().unwrap(), "CACHE"),
        None => message,
    }
}

#[test]
fn names_lead_to_snapshots() {
    let cache = cache();
    for (typed, commit) in [
        ("org/Small-1.0", NEW),
        ("org/Small-1.0@main", NEW),
        ("org/Small-1.0@v1", OLD),
        ("org/Small-1.0@refs/pr/1", OLD),
        (&format!("org/Small-1.0@{OLD}"), OLD),
    ] {
        let expected = (commit.to_owned(), format!("org/Small-1.0@{commit}"));
        assert_eq!(found(&cache, typed), expected, "{typed}");
    }
}

#[test]
fn what_is_not_there_is_said_with_the_command_that_fetches_it() {
    let cache = cache();
    assert_eq!(
        refused(Some(&cache), "org/Other"),
        "org/Other: there is no such folder, nor such a model in the Hugging Face cache CACHE. \
         Fetch it with: hf download org/Other"
    );
    assert_eq!(
        refused(Some(&cache), "org/Small-1.0@v2"),
        format!(
            "org/Small-1.0@v2: there is no such folder, and the Hugging Face cache CACHE holds that model only at \
             {OLD}, {NEW} (write org/Small-1.0@{OLD} to use that). Fetch it with: hf download org/Small-1.0 --revision v2"
        )
    );
    fs::remove_dir_all(cache.path().join("models--org--Small-1.0/snapshots")).unwrap();
    assert_eq!(
        refused(Some(&cache), "org/Small-1.0"),
        "org/Small-1.0: there is no such folder, and the Hugging Face cache CACHE holds no snapshot of that model. \
         Fetch it with: hf download org/Small-1.0"
    );
    assert_eq!(
        refused(None, "org/Other"),
        "org/Other: there is no such folder, and no Hugging Face cache: neither HF_HUB_CACHE, HF_HOME nor a home folder \
         is known. Fetch it with: hf download org/Other"
    );
}

#[test]
fn a_folder_wins_over_a_name_and_a_path_is_none() {
    let cache = cache();
    let as_path = |typed: &str| {
        let expected = Located { folder: typed.into(), pinned: None };
        assert_eq!(locate_in(typed.as_ref(), Some(cache.path())).unwrap(), expected, "{typed}");
    };
    // Tests run in the repository's root.
    as_path("tests/checkpoint");
    let far = format!("/{}", "x".repeat(20));
    for typed in [
        "model",
        "./org/Small-1.0",
        "../org",
        "/org/Small-1.0",
        "~/model",
        "a/b/c",
        "org/",
        "",
        "org//x",
        &far,
    ] {
        as_path(typed);
        assert_eq!(HubName::parse(typed.as_ref()), None, "{typed}");
    }
    for typed in
        ["org/a..b", "org/a--b", "-org/a", "org/.a", "org/a@", "org/a@../../x", "org/a@x//y", "o rg/a"]
    {
        assert_eq!(HubName::parse(typed.as_ref()), None, "{typed}");
    }
    let name = HubName::parse("meta-llama/Llama-3.2_1B@refs/pr/1".as_ref()).unwrap();
    assert_eq!(
        (name.repository.as_str(), name.revision.as_deref()),
        ("meta-llama/Llama-3.2_1B", Some("refs/pr/1"))
    );
}

#[test]
fn the_variables_of_huggingface_hub_say_where_the_cache_is() {
    let folder = |set: &[(&str, &str)]| {
        let variable =
            |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
        cache_folder(variable).map(|path| path.display().to_string())
    };
    let home = ("HOME", "/home/ann");
    assert_eq!(folder(&[]), None);
    assert_eq!(folder(&[home]).as_deref(), Some("/home/ann/.cache/huggingface/hub"));
    assert_eq!(folder(&[home, ("XDG_CACHE_HOME", "/c")]).as_deref(), Some("/c/huggingface/hub"));
    assert_eq!(folder(&[home, ("XDG_CACHE_HOME", "/c"), ("HF_HOME", "/hf")]).as_deref(), Some("/hf/hub"));
    assert_eq!(folder(&[home, ("HF_HOME", "~/hf")]).as_deref(), Some("/home/ann/hf/hub"));
    assert_eq!(
        folder(&[home, ("HF_HOME", "/hf"), ("HF_HUB_CACHE", "~/hub")]).as_deref(),
        Some("/home/ann/hub")
    );
    assert_eq!(folder(&[("HF_HOME", ""), ("HF_HUB_CACHE", "")]), None);
}

#[test]
fn a_resumed_run_stays_with_the_commit_it_began_with() {
    let adopted = |typed: &str, recorded: &str| {
        let mut typed = PathBuf::from(typed);
        adopt_commit(&mut typed, Path::new(recorded));
        typed.display().to_string()
    };
    assert_eq!(adopted("org/m", "org/m@abc"), "org/m@abc");
    assert_eq!(adopted("org/m@main", "org/m@abc"), "org/m@main");
    assert_eq!(adopted("org/m@def", "org/m@abc"), "org/m@def");
    assert_eq!(adopted("org/m", "org/other@abc"), "org/m");
    assert_eq!(adopted("org/m", "/some/folder"), "org/m");
    assert_eq!(adopted("./m", "org/m@abc"), "./m");
}
