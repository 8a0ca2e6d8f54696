//! A row as `asft inspect` prints it: what each token is for stands in words beside the text, and again in its colour.

use std::fmt::Write;

use anstyle::{AnsiColor, Effects, Style};
use asft::inspect::{Part, Token, Use};
use asft::train::InspectedRow;
use serde_json::{Map, Value, json};
use unicode_width::UnicodeWidthStr;

/// Between two tokens.
const BORDER: &str = "│";
/// For a token that has no text, since the next one completes its character.
const BEGUN: &str = "…";
/// Columns before the tokens: the part, and what its tokens are for.
const PART: usize = 11;
const USE: usize = 10;

const LABEL: Style = Style::new().bold();
const FAINT: Style = Style::new().dimmed();

/// What the signs and words mean.
pub fn legend() -> String {
    let bold = Style::new().bold();
    let uses = [
        (Use::Scored, "the model learns to write it"),
        (Use::Unscored, "it only reads it"),
        (Use::Cut, "beyond --max-length"),
    ];
    let uses = uses.map(|(used, meaning)| {
        let style = style_of(used);
        format!("{style}{}{style:#}: {meaning}", used.name())
    });
    format!(
        "{FAINT}{BORDER}{FAINT:#} border of two tokens   {bold}«...»{bold:#} special token   ↵ line break   ⇥ tab   \
         {BEGUN} part of the next character\n{}\n",
        uses.join("   ")
    )
}

/// How a file is read, before the first of its rows.
pub fn file_heading(row: &InspectedRow) -> String {
    format!("\n{LABEL}{}{LABEL:#}: {}\n", row.place.path.display(), row.shape)
}

/// A row as text with colours, in lines of at most `width` columns where tokens allow.
pub fn text(row: &InspectedRow, width: usize) -> String {
    let mut text = heading(row);
    for part in row.tokens.iter().flat_map(|tokens| &tokens.parts) {
        let mut name = part.name;
        if part.tokens.is_empty() {
            let _ = writeln!(text, "  {LABEL}{name:PART$}{LABEL:#}{FAINT}(no tokens){FAINT:#}");
        }
        for run in part.runs() {
            let used = run[0].used;
            let style = color_of(used);
            // Writing to a String cannot fail.
            let _ = write!(text, "  {LABEL}{name:PART$}{LABEL:#}{style}{:USE$}{style:#}", used.name());
            write_run(&mut text, run, width.saturating_sub(2 + PART + USE).max(20));
            name = "";
        }
    }
    text
}

/// Place, number, and what there is to say of the row as a whole.
fn heading(row: &InspectedRow) -> String {
    let InspectedRow { place, row, dropped, tokens, .. } = row;
    let mut text = format!("\n{LABEL}{place}{LABEL:#} (row {row})");
    let counts = |part: &Part| {
        let all = part.tokens.len();
        let others = [Use::Unscored, Use::Cut].map(|used| (used, part.count(used)));
        let noted = others.into_iter().filter(|(used, count)| {
            // That a prompt is not scored is understood.
            *count > 0 && (part.name != "prompt" || *used == Use::Cut)
        });
        let noted: Vec<String> = noted.map(|(used, count)| format!("{count} {}", used.name())).collect();
        match noted.as_slice() {
            [] => format!("{} {all}", part.name),
            noted => format!("{} {all} ({})", part.name, noted.join(", ")),
        }
    };
    if let Some(tokens) = tokens {
        let parts: Vec<String> = tokens.parts.iter().map(counts).collect();
        let _ = write!(text, ": tokens: {}", parts.join(", "));
    }
    text.push('\n');
    if let Some(reason) = dropped {
        let style = color_of(Use::Cut).bold();
        let _ = writeln!(text, "  {style}dropped: {reason}{style:#}");
    }
    text
}

fn color_of(used: Use) -> Style {
    match used {
        Use::Scored => AnsiColor::Green.on_default(),
        Use::Unscored => AnsiColor::Cyan.on_default(),
        Use::Cut => AnsiColor::Red.on_default(),
    }
}

/// The style of a token's text.
fn style_of(used: Use) -> Style {
    match used {
        Use::Cut => color_of(used).effects(Effects::STRIKETHROUGH),
        Use::Scored | Use::Unscored => color_of(used),
    }
}

/// Tokens with their borders, in lines that begin below each other.
fn write_run(text: &mut String, run: &[Token], width: usize) {
    let indent = " ".repeat(2 + PART + USE);
    let mut column = 0;
    for (index, token) in run.iter().enumerate() {
        let shown = match token {
            Token { special: true, text, .. } => format!("«{}»", visible(text)),
            Token { text, .. } if text.is_empty() => BEGUN.to_owned(),
            Token { text, .. } => visible(text),
        };
        let last = index + 1 == run.len();
        let border = if last { "" } else { BORDER };
        let columns = shown.width() + border.width();
        if column > 0 && column + columns > width {
            let _ = write!(text, "\n{indent}");
            column = 0;
        }
        let style = if token.special { style_of(token.used).bold() } else { style_of(token.used) };
        let _ = write!(text, "{style}{shown}{style:#}");
        if !last {
            let _ = write!(text, "{FAINT}{border}{FAINT:#}");
        }
        column += columns;
        // The text goes on in a new line where it does in the data.
        if token.text.contains('\n') && !last {
            let _ = write!(text, "\n{indent}");
            column = 0;
        }
    }
    text.push('\n');
}

/// Text in which nothing is invisible or moves the cursor.
fn visible(text: &str) -> String {
    // Direction marks and other characters without a form could make the text look other than it is.
    let formless = |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    let mut output = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => output.push('↵'),
            '\t' => output.push('⇥'),
            c if c.is_control() || formless(c) => output.extend(c.escape_unicode()),
            c => output.push(c),
        }
    }
    output
}

/// A row as JSON.
pub fn json(row: &InspectedRow) -> Value {
    let InspectedRow { place, shape, row, dropped, tokens } = row;
    let mut object = Map::new();
    object.insert("row".to_owned(), json!(row));
    object.insert("place".to_owned(), json!(place.to_string()));
    object.insert("shape".to_owned(), json!(shape.shape.to_string()));
    if let Some(reason) = dropped {
        object.insert("dropped".to_owned(), json!(reason.to_string()));
    }
    for part in tokens.iter().flat_map(|tokens| &tokens.parts) {
        let list = |each: fn(&Token) -> Value| part.tokens.iter().map(each).collect::<Vec<_>>();
        let tokens = json!({
            "ids": list(|token| token.id.into()),
            "texts": list(|token| token.text.as_str().into()),
            "uses": list(|token| token.used.name().into()),
            "special": list(|token| token.special.into()),
        });
        object.insert(part.name.to_owned(), tokens);
    }
    Value::Object(object)
}
