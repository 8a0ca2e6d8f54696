//! An OpenAI-compatible endpoint on this machine that says what a test wants said.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

/// What becomes of a call.
pub enum Reply {
    /// A chat completion with these words.
    Says(String),
    /// This status, header lines and body.
    Status(u16, &'static str, String),
    /// The connection is closed without a word.
    Closes,
    /// Nothing, for this long.
    Waits(Duration),
}

/// A call as it came in.
#[derive(Clone, Debug)]
pub struct Call {
    pub path: String,
    /// Header lines.
    pub headers: Vec<String>,
    pub body: Value,
}

impl Call {
    /// The text of the message in this role.
    pub fn message(&self, role: &str) -> &str {
        let messages = self.body["messages"].as_array().unwrap();
        messages.iter().find(|message| message["role"] == role).unwrap()["content"].as_str().unwrap()
    }
}

/// A running stand-in; it ends with the tests.
pub struct StandIn {
    pub address: String,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl StandIn {
    /// Answers the nth call, from 0, with what `reply` says.
    pub fn new(reply: impl Fn(usize, &Call) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let calls = Arc::new(Mutex::new(Vec::new()));
        let (reply, seen) = (Arc::new(reply), calls.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (reply, seen) = (reply.clone(), seen.clone());
                std::thread::spawn(move || {
                    let call = read(&stream);
                    let mut seen = seen.lock().unwrap();
                    let number = seen.len();
                    seen.push(call.clone());
                    drop(seen);
                    answer(stream, reply(number, &call));
                });
            }
        });
        Self { address, calls }
    }

    /// The calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }
}

fn read(stream: &TcpStream) -> Call {
    let mut reader = BufReader::new(stream);
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        match line.trim_end() {
            "" => break,
            line => headers.push(line.to_owned()),
        }
    }
    let path = headers.remove(0).split(' ').nth(1).unwrap().to_owned();
    let length = headers
        .iter()
        .find_map(|line| line.to_lowercase().strip_prefix("content-length: ").map(str::to_owned));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    Call { path, headers, body: serde_json::from_slice(&body).unwrap() }
}

fn answer(mut stream: TcpStream, reply: Reply) {
    let (status, headers, body) = match reply {
        Reply::Says(words) => {
            let message = json!({ "role": "assistant", "content": words });
            (200, "", json!({ "choices": [{ "index": 0, "message": message }] }).to_string())
        }
        Reply::Status(status, headers, body) => (status, headers, body),
        Reply::Closes => return,
        Reply::Waits(time) => return std::thread::sleep(time),
    };
    let length = body.len();
    // Whoever has stopped waiting has closed the connection.
    let _ = write!(
        stream,
        "HTTP/1.1 {status} X\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
}
