//! The report of a skipped test: one whole line per test, in the form that `test.sh` counts.

#[allow(dead_code, reason = "`skip` itself acts on the environment of this run")]
mod skip;

#[test]
fn a_report_is_one_line_whatever_the_reason_holds() {
    let line = skip::line("ops::head", "NVRTC", "not found:\n  looked in target/nvrtc");
    assert_eq!(line, "skipped: ops::head: NVRTC: not found: looked in target/nvrtc\n");
}

#[test]
fn reports_of_parallel_tests_stay_whole_and_follow_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    std::fs::write(&log, "first\n").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let log = &log;
            scope.spawn(move || {
                for test in 0..50 {
                    skip::append(log, &skip::line(&format!("t{thread}::{test}"), "NVRTC", "none")).unwrap();
                }
            });
        }
    });
    let text = std::fs::read_to_string(&log).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.remove(0), "first");
    let mut expected: Vec<String> = (0..8)
        .flat_map(|thread| (0..50).map(move |test| format!("skipped: t{thread}::{test}: NVRTC: none")))
        .collect();
    lines.sort_unstable();
    expected.sort_unstable();
    assert_eq!(lines, expected);
}
