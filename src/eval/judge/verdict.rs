//! What a judge's words say: a rating or a winner, found as FastChat's `common.py` finds them.

/// Who a judge prefers, of the two that it was shown as A and B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// `[[A]]`
    A,
    /// `[[B]]`
    B,
    /// `[[C]]`
    Tie,
}

/// The first `[[7]]` or `[[7.5]]`, else the first `[7]`; `None` where there is neither.
pub fn rating(judgment: &str) -> Option<f64> {
    bracketed(judgment, "[[", "]]").or_else(|| bracketed(judgment, "[", "]"))
}

/// `[[A]]` before `[[B]]` before `[[C]]`, wherever they stand; `None` where there is none of them.
pub fn winner(judgment: &str) -> Option<Verdict> {
    let verdicts = [("[[A]]", Verdict::A), ("[[B]]", Verdict::B), ("[[C]]", Verdict::Tie)];
    verdicts.into_iter().find(|(words, _)| judgment.contains(words)).map(|(_, verdict)| verdict)
}

/// The first number that stands alone between these brackets: the regular expression `\d+\.?\d*`.
fn bracketed(text: &str, open: &str, close: &str) -> Option<f64> {
    // Every place is tried, also one within a longer row of brackets.
    text.char_indices().find_map(|(at, _)| {
        let inside = text[at..].strip_prefix(open)?;
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let whole = digits(inside);
        let fraction = inside[whole..].strip_prefix('.').map_or(0, |after| 1 + digits(after));
        let (number, after) = inside.split_at(whole + fraction);
        (whole > 0 && after.starts_with(close)).then(|| number.parse().ok())?
    })
}
