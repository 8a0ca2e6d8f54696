//! `asft watch` on a terminal: it gives it back as it was.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::{pty, termios};

use crate::golden::*;
use crate::shell::Shell;
use crate::signals::send;

/// Both ends of a terminal: whoever holds the first types and sees, a program runs on the second.
fn terminal() -> (File, File) {
    let owner = pty::openpt(pty::OpenptFlags::RDWR | pty::OpenptFlags::NOCTTY).unwrap();
    pty::grantpt(&owner).unwrap();
    pty::unlockpt(&owner).unwrap();
    let path = pty::ptsname(&owner, Vec::new()).unwrap().into_string().unwrap();
    let terminal = File::options().read(true).write(true).open(path).unwrap();
    let size = termios::Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    termios::tcsetwinsize(&terminal, size).unwrap();
    (owner.into(), terminal)
}

/// Whether the terminal edits lines and shows what is typed.
fn edits_and_echoes(terminal: &File) -> bool {
    let modes = termios::tcgetattr(terminal).unwrap().local_modes;
    modes.contains(termios::LocalModes::ICANON | termios::LocalModes::ECHO)
}

/// What ends it.
enum End {
    Key(&'static [u8]),
    Signal(&'static str),
}

#[test]
fn the_terminal_is_given_back_whatever_ends_it() {
    let shell = Shell::new();
    done(&shell, &train12("mqa-linear-tied", "run", "--max-steps 1"));
    let ends = [
        ("q", 0, End::Key(b"q")),
        ("Ctrl-C", 0, End::Key(b"\x03")),
        ("SIGINT", 130, End::Signal("INT")),
        ("SIGTERM", 143, End::Signal("TERM")),
    ];
    for (what, code, end) in ends {
        let (mut owner, terminal) = terminal();
        let stdio = || Stdio::from(terminal.try_clone().unwrap());
        let mut child = Command::new(env!("CARGO_BIN_EXE_asft"))
            .args(["watch", "run"])
            .current_dir(shell.path())
            .env("TERM", "xterm-256color")
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .unwrap();
        let shown = Arc::new(Mutex::new(String::new()));
        // It ends with the last handle of the terminal.
        let reader = {
            let (mut screen, shown) = (owner.try_clone().unwrap(), shown.clone());
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = screen.read(&mut buffer) {
                    shown.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
                }
            })
        };
        let began = Instant::now();
        while !shown.lock().unwrap().contains("step 1 of 1") {
            assert!(began.elapsed() < Duration::from_secs(20), "{what}: nothing is drawn: {shown:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!edits_and_echoes(&terminal), "{what}: keys would be seen");
        match end {
            End::Key(key) => owner.write_all(key).unwrap(),
            End::Signal(signal) => send(&child, signal),
        }
        assert_eq!(child.wait().unwrap().code(), Some(code), "{what}");
        assert!(edits_and_echoes(&terminal), "{what}: the terminal stays raw");
        drop(terminal);
        reader.join().unwrap();
        let shown = shown.lock().unwrap();
        for (on, off, screen) in
            [("\x1b[?1049h", "\x1b[?1049l", "second screen"), ("\x1b[?25l", "\x1b[?25h", "hidden cursor")]
        {
            assert!(shown.rfind(on) < shown.rfind(off), "{what}: its {screen} stays: {shown:?}");
        }
    }
}
