//! PTX text to tokens, each with its line and column (PTX ISA section 4). Knows nothing of the grammar.

use super::error::{PtxError, PtxErrorKind};

/// A place in the text: line and column in bytes, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Position {
    pub line: u32,
    pub column: u32,
}

impl Position {
    /// An error at this place.
    pub fn error(self, kind: PtxErrorKind, message: impl Into<String>) -> PtxError {
        PtxError { kind, line: self.line, column: self.column, message: message.into() }
    }

    pub fn syntax(self, message: impl Into<String>) -> PtxError {
        self.error(PtxErrorKind::Syntax, message)
    }

    pub fn semantic(self, message: impl Into<String>) -> PtxError {
        self.error(PtxErrorKind::Semantic, message)
    }

    pub fn unsupported(self, message: impl Into<String>) -> PtxError {
        self.error(PtxErrorKind::Unsupported, message)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum TokenKind<'a> {
    /// An identifier, `%` and `$` included; a lone `_` too.
    Name(&'a str),
    /// A dot with the name after it, without the dot: a directive, a type or a modifier (`::` included).
    Dot(&'a str),
    /// An integer literal.
    Integer(u64),
    /// `0f...`: the bits of an f32.
    Float32(u32),
    /// `0d...` or a decimal literal: the bits of an f64.
    Float64(u64),
    /// A string literal, without its quotes.
    Text(&'a str),
    Punctuation(char),
    End,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Token<'a> {
    pub kind: TokenKind<'a>,
    pub position: Position,
}

/// All tokens of a text; the last one is [`TokenKind::End`].
pub(crate) fn tokenise(text: &str) -> Result<Vec<Token<'_>>, PtxError> {
    let mut lexer = Lexer { text, bytes: text.as_bytes(), at: 0, line: 1, line_start: 0 };
    let mut tokens = Vec::with_capacity(text.len() / 4 + 1);
    loop {
        let token = lexer.next()?;
        let end = token.kind == TokenKind::End;
        tokens.push(token);
        if end {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    line: u32,
    line_start: usize,
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$'
}

impl<'a> Lexer<'a> {
    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn position(&self) -> Position {
        Position { line: self.line, column: (self.at - self.line_start) as u32 + 1 }
    }

    fn advance(&mut self) {
        if self.peek(0) == b'\n' {
            self.line += 1;
            self.line_start = self.at + 1;
        }
        self.at += 1;
    }

    fn skip_blanks(&mut self) -> Result<(), PtxError> {
        while self.at < self.bytes.len() {
            match (self.peek(0), self.peek(1)) {
                (b'/', b'/') => {
                    while self.at < self.bytes.len() && self.peek(0) != b'\n' {
                        self.advance();
                    }
                }
                (b'/', b'*') => {
                    let start = self.position();
                    self.at += 2;
                    while (self.peek(0), self.peek(1)) != (b'*', b'/') {
                        if self.at >= self.bytes.len() {
                            return Err(start.syntax("this comment is never closed"));
                        }
                        self.advance();
                    }
                    self.at += 2;
                }
                // Some producers end the text with a zero byte, as a C string.
                (byte, _) if byte.is_ascii_whitespace() || byte == 0 => self.advance(),
                _ => break,
            }
        }
        Ok(())
    }

    fn take_name(&mut self) -> &'a str {
        let start = self.at;
        loop {
            if is_name_byte(self.peek(0)) {
                self.at += 1;
            } else if self.peek(0) == b':' && self.peek(1) == b':' && is_name_byte(self.peek(2)) {
                self.at += 2;
            } else {
                return &self.text[start..self.at];
            }
        }
    }

    fn next(&mut self) -> Result<Token<'a>, PtxError> {
        self.skip_blanks()?;
        let position = self.position();
        let Some(&first) = self.bytes.get(self.at) else {
            return Ok(Token { kind: TokenKind::End, position });
        };
        let kind = match first {
            b'.' if is_name_byte(self.peek(1)) => {
                self.at += 1;
                TokenKind::Dot(self.take_name())
            }
            b'0'..=b'9' => self.number(position)?,
            b'"' => self.string(position)?,
            b'%' | b'_' | b'$' | b'a'..=b'z' | b'A'..=b'Z' => {
                let start = self.at;
                self.at += 1;
                while is_name_byte(self.peek(0)) {
                    self.at += 1;
                }
                TokenKind::Name(&self.text[start..self.at])
            }
            b'.' | b',' | b';' | b':' | b'(' | b')' | b'[' | b']' | b'{' | b'}' | b'<' | b'>' | b'='
            | b'+' | b'-' | b'!' | b'~' | b'|' | b'@' | b'*' | b'/' | b'&' | b'^' | b'?' => {
                self.at += 1;
                TokenKind::Punctuation(char::from(first))
            }
            _ => {
                let character = self.text[self.at..].chars().next().unwrap_or('?');
                return Err(position.syntax(format!("`{character}` has no place in PTX")));
            }
        };
        Ok(Token { kind, position })
    }

    fn string(&mut self, position: Position) -> Result<TokenKind<'a>, PtxError> {
        self.at += 1;
        let start = self.at;
        while self.peek(0) != b'"' {
            if self.at >= self.bytes.len() || self.peek(0) == b'\n' {
                return Err(position.syntax("this string is never closed"));
            }
            self.at += if self.peek(0) == b'\\' && self.peek(1) != b'\n' { 2 } else { 1 };
        }
        // A backslash before the text's last byte steps past its end; the loop above then reports it.
        let text =
            self.text.get(start..self.at).ok_or_else(|| position.syntax("this string is never closed"))?;
        self.at += 1;
        Ok(TokenKind::Text(text))
    }

    fn digits(&mut self, position: Position, radix: u32) -> Result<u64, PtxError> {
        let start = self.at;
        let mut value: u64 = 0;
        while let Some(digit) = char::from(self.peek(0)).to_digit(radix) {
            value = value
                .checked_mul(u64::from(radix))
                .and_then(|value| value.checked_add(u64::from(digit)))
                .ok_or_else(|| position.syntax("this number does not fit into 64 bits"))?;
            self.at += 1;
        }
        if self.at == start {
            return Err(position.syntax("a number without digits"));
        }
        if self.peek(0) == b'U' {
            self.at += 1;
        }
        if is_name_byte(self.peek(0)) {
            return Err(position.syntax(format!("`{}` is no digit here", char::from(self.peek(0)))));
        }
        Ok(value)
    }

    /// Exactly `count` hexadecimal digits: the bits of a floating-point number.
    fn float_bits(&mut self, position: Position, count: usize) -> Result<u64, PtxError> {
        self.at += 2;
        let start = self.at;
        let value = self.digits(position, 16)?;
        if self.at - start != count {
            return Err(position.syntax(format!("a floating-point bit pattern has {count} digits here")));
        }
        Ok(value)
    }

    fn number(&mut self, position: Position) -> Result<TokenKind<'a>, PtxError> {
        match (self.peek(0), self.peek(1)) {
            (b'0', b'f' | b'F') => return Ok(TokenKind::Float32(self.float_bits(position, 8)? as u32)),
            (b'0', b'd' | b'D') => return Ok(TokenKind::Float64(self.float_bits(position, 16)?)),
            (b'0', b'x' | b'X') => {
                self.at += 2;
                return Ok(TokenKind::Integer(self.digits(position, 16)?));
            }
            (b'0', b'b' | b'B') => {
                self.at += 2;
                return Ok(TokenKind::Integer(self.digits(position, 2)?));
            }
            _ => {}
        }
        let start = self.at;
        let mut end = self.at;
        let mut is_float = false;
        while let Some(&byte) = self.bytes.get(end) {
            let exponent_sign = matches!(byte, b'+' | b'-') && matches!(self.bytes[end - 1], b'e' | b'E');
            match byte {
                b'0'..=b'9' => {}
                b'.' if self.bytes.get(end + 1).is_none_or(|b| !b.is_ascii_alphabetic()) => is_float = true,
                b'e' | b'E' => is_float = true,
                _ if is_float && exponent_sign => {}
                _ => break,
            }
            end += 1;
        }
        if is_float {
            self.at = end;
            let text = &self.text[start..end];
            let value: f64 = text.parse().map_err(|_| position.syntax(format!("`{text}` is no number")))?;
            return Ok(TokenKind::Float64(value.to_bits()));
        }
        let octal = self.peek(0) == b'0' && self.peek(1).is_ascii_digit();
        Ok(TokenKind::Integer(self.digits(position, if octal { 8 } else { 10 })?))
    }
}
