//! Answers of several models to MT-Bench's questions, side by side on a page.
//!
//! The questions are FastChat's: the page shows each by its number, kind and first words.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use super::{Figure, Result};
use crate::chart::escape;
use crate::eval::mt_bench::{self, ModelAnswer, Question};
use crate::eval::text::distinct::{distinct, repetition, tokens};

/// Words of a question that are shown.
const SHOWN_WORDS: usize = 6;

/// The answers of one model.
#[derive(Clone, Debug)]
pub struct Column {
    /// What the page calls it.
    pub title: String,
    answers: BTreeMap<u64, ModelAnswer>,
}

impl Column {
    /// Reads a file of `asft eval mt-bench`.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn read(title: &str, path: &Path) -> Result<Self> {
        Ok(Self { title: title.to_owned(), answers: mt_bench::answers(path)? })
    }

    fn turns(&self, question: &Question) -> &[String] {
        let choice = self.answers.get(&question.question_id).and_then(|answer| answer.choices.first());
        choice.map_or(&[], |choice| &choice.turns)
    }

    /// Tokens of every answer to these questions.
    fn tokens(&self, questions: &[Question]) -> Vec<Vec<String>> {
        questions.iter().flat_map(|question| self.turns(question)).map(|text| tokens(text)).collect()
    }
}

const STYLE: &str = "\
:root{color-scheme:light dark;--page:#fff;--text:#1f2328;--weak:#57606a;--line:#d8dee4;--mark:#f6f8fa}\
@media(prefers-color-scheme:dark){:root{--page:#0d1117;--text:#e6edf3;--weak:#9da7b1;--line:#2a313a;--mark:#161b22}}\
body{margin:0 auto;padding:24px 20px 60px;max-width:1500px;background:var(--page);color:var(--text);\
font:15px/1.5 system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif}\
h1{font-size:22px}h2{font-size:15px;margin:28px 0 8px;font-weight:600}p{max-width:80ch}small,.turn{color:var(--weak)}\
.answers{display:grid;grid-template-columns:repeat(auto-fit,minmax(230px,1fr));gap:8px}\
.answer{border:1px solid var(--line);border-radius:6px;background:var(--mark);padding:8px 10px;overflow-wrap:anywhere}\
.answer b{display:block;margin-bottom:2px}.answer p{margin:0 0 8px;font-size:14px;white-space:pre-wrap}";

/// The page.
pub fn figure(questions: &[Question], columns: &[Column], notes: Vec<String>) -> Figure {
    let sentence = sentence(questions, columns);
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<title>Answers side by side</title>\n\
         <style>{STYLE}</style></head>\n<body>\n<h1>Answers to MT-Bench's questions, side by side</h1>\n<p>{}</p>\n",
        escape(&sentence)
    );
    for note in &notes {
        // Writing to a String cannot fail.
        let _ = writeln!(html, "<p><small>{}</small></p>", escape(note));
    }
    for question in questions {
        let first = question.turns.first().map_or("", String::as_str);
        let words: Vec<&str> = first.split_whitespace().take(SHOWN_WORDS).collect();
        let _ = writeln!(
            html,
            "<h2>{} \u{b7} {} <small>\u{201c}{} \u{2026}\u{201d}</small></h2>\n<div class=\"answers\">",
            question.question_id,
            escape(&question.category),
            escape(&words.join(" "))
        );
        for column in columns {
            let _ = write!(html, "<div class=\"answer\"><b>{}</b>", escape(&column.title));
            for (turn, answer) in column.turns(question).iter().enumerate() {
                let _ =
                    write!(html, "<span class=\"turn\">turn {}</span><p>{}</p>", turn + 1, escape(answer));
            }
            html.push_str("</div>\n");
        }
        html.push_str("</div>\n");
    }
    html.push_str("</body></html>\n");
    Figure {
        name: "answers",
        title: "Answers to MT-Bench's questions, side by side",
        sentence,
        notes,
        html: Some(html),
        ..Figure::default()
    }
}

fn sentence(questions: &[Question], columns: &[Column]) -> String {
    let answers: usize = questions.iter().map(|question| question.turns.len()).sum();
    let mut parts = Vec::new();
    for column in columns {
        let tokens = column.tokens(questions);
        let count = tokens.len().max(1) as f64;
        let mean = |of: &dyn Fn(&Vec<String>) -> f64| tokens.iter().map(of).sum::<f64>() / count;
        parts.push(format!(
            "{} {:.1} words, {:.0}% of pairs distinct, {:.0}% of 4-grams repeated",
            column.title,
            mean(&|answer| answer.len() as f64),
            100.0 * distinct(tokens.iter().map(Vec::as_slice), 2),
            100.0 * mean(&|answer| repetition(answer))
        ));
    }
    format!("{answers} answers of each model to {} questions: {}.", questions.len(), parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_shows_answers_and_the_beginning_of_questions() {
        let question = |turns: &[&str]| Question {
            question_id: 81,
            category: "writing".to_owned(),
            turns: turns.iter().map(|turn| (*turn).to_owned()).collect(),
        };
        let question = question(&["one two three four five six seven <b>", "again"]);
        let column = |title: &str, turns: [&str; 2]| {
            let answer = ModelAnswer::new(&question, title, turns.map(str::to_owned).to_vec(), 0.0);
            Column { title: title.to_owned(), answers: BTreeMap::from([(81, answer)]) }
        };
        let columns = [column("ASFT", ["a b a b a b", "<script>"]), column("DPO", ["c d", "e"])];
        let figure = figure(std::slice::from_ref(&question), &columns, vec!["A note.".to_owned()]);
        assert!(
            figure.sentence.starts_with("2 answers of each model to 1 questions: ASFT 4.5 words"),
            "{}",
            figure.sentence
        );
        let html = figure.html.unwrap();
        assert!(html.contains("one two three four five six \u{2026}") && !html.contains("seven"));
        assert!(html.contains("&lt;script&gt;") && !html.contains("<script>"));
        assert_eq!(html.matches("turn 2").count(), 2);
    }
}
