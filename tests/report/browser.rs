//! The page in a real browser: nothing is wider than the window, nothing is asked of the network, nothing goes wrong in the
//! console. Without Chromium the test is skipped.

use std::path::Path;
use std::process::Command;

use asft::report::page;

use super::folder::Folder;
use super::{read, skip};

/// Where Chromium may be: `ASFT_CHROMIUM`, or on the path.
fn chromium() -> Option<String> {
    let named = std::env::var("ASFT_CHROMIUM").ok();
    let known = ["chromium", "chromium-browser", "google-chrome", "chrome"].map(str::to_owned);
    let runs =
        |name: &String| Command::new(name).arg("--version").output().is_ok_and(|out| out.status.success());
    named.into_iter().chain(known).find(runs)
}

/// Appended to the page: writes what the test asks about into the document's title.
const PROBE: &str = "<script>
addEventListener('load', () => {
  const page = document.documentElement, wide = [];
  for (const element of document.querySelectorAll('body *')) {
    const box = element.getBoundingClientRect();
    if (box.right > innerWidth + 1 && !element.closest('.scroll')) wide.push(element.tagName + '.' + element.className);
  }
  const svg = document.querySelector('figure svg');
  svg.dispatchEvent(new PointerEvent('pointermove', { clientX: svg.getBoundingClientRect().left + svg.clientWidth / 2 }));
  const found = {
    inner: page.clientWidth, scroll: page.scrollWidth, wide: wide.slice(0, 5), errors: window.failures,
    requests: performance.getEntriesByType('resource').length, tip: document.querySelector('.tip').textContent,
  };
  document.body.setAttribute('data-probe', JSON.stringify(found));
});
</script>";
const WATCH_ERRORS: &str = "<script>window.failures = []; addEventListener('error', (e) => window.failures.push(String(e.message)));\
     addEventListener('securitypolicyviolation', (e) => window.failures.push(e.blockedURI));</script>";

fn probe(browser: &str, page: &Path, width: u32, folder: &Path) -> (serde_json::Value, String) {
    // A window of headless Chromium has a least width of about 500: the page is put into a frame of the wanted width.
    let frame = folder.join(format!("frame{width}.html"));
    let text = std::fs::read_to_string(page).unwrap().replace('&', "&amp;").replace('"', "&quot;");
    let outer = format!(
        "<!doctype html><body style='margin:0'><iframe style='border:0;width:{width}px;height:6000px' srcdoc=\"{text}\"></iframe>\
         <script>addEventListener('load', () => setTimeout(() => document.body.setAttribute('data-found', \
         document.querySelector('iframe').contentDocument.body.dataset.probe), 200))</script>"
    );
    std::fs::write(&frame, outer).unwrap();
    let out = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
        ])
        .args([
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            "--enable-logging=stderr",
            "--virtual-time-budget=2000",
        ])
        .arg(format!("--user-data-dir={}", folder.join("profile").display()))
        .args(["--window-size=1400,6000", "--dump-dom"])
        .arg(format!("file://{}", frame.display()))
        .output()
        .unwrap();
    let dom = String::from_utf8_lossy(&out.stdout).into_owned();
    let found = dom.split("data-found=\"").nth(1).and_then(|rest| rest.split('"').next());
    let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
    let found = found.unwrap_or_else(|| panic!("no answer from {browser}: {stderr}"));
    let found = found.replace("&quot;", "\"").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
    let console: String = stderr.lines().filter(|line| line.contains("CONSOLE")).collect();
    (serde_json::from_str(&found).unwrap_or_else(|error| panic!("{error}: {found}")), console)
}

#[test]
fn the_page_fits_phone_and_desktop_and_asks_for_nothing() {
    let Some(browser) = chromium() else {
        return skip::skip(
            "report::browser",
            "Chromium",
            "neither ASFT_CHROMIUM nor chromium on the path runs",
        );
    };
    let (one, two) =
        (Folder::whole("a-run-with-a-rather-long-name-2026-11-29", "asft"), Folder::whole("two", "orpo"));
    for runs in [vec![read(&one)], vec![read(&one), read(&two)]] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.html");
        let html = page::to_html(&runs).unwrap();
        let html = html.replacen("<head>", &format!("<head>{WATCH_ERRORS}"), 1).replacen(
            "</body>",
            &format!("{PROBE}</body>"),
            1,
        );
        std::fs::write(&path, html).unwrap();
        for width in [390, 1280] {
            let (found, console) = probe(&browser, &path, width, folder.path());
            assert_eq!(found["inner"], width, "{found}");
            assert_eq!(
                (&found["scroll"], found["wide"].as_array().unwrap().len()),
                (&found["inner"], 0),
                "{found}"
            );
            assert_eq!(
                (found["errors"].as_array().unwrap().len(), &found["requests"]),
                (0, &0.into()),
                "{found}"
            );
            assert!(found["tip"].as_str().unwrap().starts_with("step "), "{found}");
            assert_eq!(console, "");
        }
    }
}
