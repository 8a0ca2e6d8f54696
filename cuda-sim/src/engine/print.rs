//! Formatting of `printf` conversions: flags, width, precision.

/// Width and precision out of the part between `%` and the conversion.
fn sizes(flags: &str) -> (usize, Option<usize>) {
    let digits = flags.trim_start_matches(['-', '+', ' ', '#', '0']);
    let (width, precision) = match digits.split_once('.') {
        Some((width, precision)) => (width, Some(precision)),
        None => (digits, None),
    };
    let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse::<usize>().ok();
    // A width that would only fill memory is cut.
    (number(width).unwrap_or(0).min(1024), precision.map(|text| number(text).unwrap_or(0).min(512)))
}

/// An integer or floating-point number by its conversion letter.
pub(crate) fn number(conversion: u8, wide: bool, bits: u64, flags: &str) -> String {
    let (_, precision) = sizes(flags);
    let alternate = flags.contains('#');
    let text = match conversion {
        b'd' | b'i' if wide => (bits as i64).to_string(),
        b'd' | b'i' => (bits as u32 as i32).to_string(),
        b'u' => bits.to_string(),
        b'x' => format!("{}{bits:x}", if alternate { "0x" } else { "" }),
        b'X' => format!("{}{bits:X}", if alternate { "0X" } else { "" }),
        b'o' => format!("{bits:o}"),
        b'p' => format!("{bits:#x}"),
        b'c' => char::from(bits as u8).to_string(),
        b'f' | b'F' => format!("{:.*}", precision.unwrap_or(6), f64::from_bits(bits)),
        b'e' | b'E' => exponential(f64::from_bits(bits), precision.unwrap_or(6)),
        b'g' | b'G' => general(f64::from_bits(bits), precision.unwrap_or(6)),
        _ => f64::from_bits(bits).to_string(),
    };
    let signed = b"diaAeEfFgG".contains(&conversion);
    let text = text.replace("NaN", "nan");
    if signed && flags.contains('+') && !text.starts_with('-') { format!("+{text}") } else { text }
}

/// As C writes it: a sign and at least two digits in the exponent.
fn exponential(value: f64, precision: usize) -> String {
    let text = format!("{value:.precision$e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => {
            let (sign, digits) = match exponent.strip_prefix('-') {
                Some(digits) => ('-', digits),
                None => ('+', exponent),
            };
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        None => text,
    }
}

/// `%g`: the shorter of the two, without trailing zeros.
fn general(value: f64, precision: usize) -> String {
    if !value.is_finite() || value == 0.0 {
        return format!("{value}");
    }
    let digits = precision.max(1);
    let scientific = exponential(value, digits - 1);
    let exponent: i32 =
        scientific.split_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0);
    let trim = |text: &str| {
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text.to_owned()
        }
    };
    if exponent < -4 || exponent >= digits as i32 {
        match scientific.split_once('e') {
            Some((mantissa, exponent)) => format!("{}e{exponent}", trim(mantissa)),
            None => scientific,
        }
    } else {
        trim(&format!("{value:.*}", (digits as i32 - 1 - exponent).max(0) as usize))
    }
}

/// Filled up to the width.
pub(crate) fn pad(text: &str, flags: &str, conversion: u8) -> String {
    let (width, precision) = sizes(flags);
    let text = match (conversion, precision) {
        (b's', Some(limit)) => text.chars().take(limit).collect(),
        _ => text.to_owned(),
    };
    let missing = width.saturating_sub(text.chars().count());
    if missing == 0 {
        return text;
    }
    if flags.contains('-') {
        return text + &" ".repeat(missing);
    }
    let zeros = flags.trim_start_matches(['+', ' ', '#']).starts_with('0') && conversion != b's';
    if zeros {
        let (sign, digits) = text.split_at(usize::from(text.starts_with(['-', '+'])));
        return format!("{sign}{}{digits}", "0".repeat(missing));
    }
    " ".repeat(missing) + &text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_c_writes_them() {
        let f = |flags: &str, value: f64, conversion| {
            pad(&number(conversion, true, value.to_bits(), flags), flags, conversion)
        };
        assert_eq!(f("", 1.5, b'f'), "1.500000");
        assert_eq!(f("8.2", -1.005, b'f'), "   -1.00");
        assert_eq!(f("08.2", -1.5, b'f'), "-0001.50");
        assert_eq!(f(".3", 12345.678, b'e'), "1.235e+04");
        assert_eq!(f("", 0.0001, b'g'), "0.0001");
        assert_eq!(f("", 1e-5, b'g'), "1e-05");
        assert_eq!(f("", 1e6, b'g'), "1e+06");
        assert_eq!(f("", 100000.0, b'g'), "100000");
        assert_eq!(pad(&number(b'd', false, -7i64 as u64, "5"), "5", b'd'), "   -7");
        assert_eq!(pad(&number(b'd', false, 7, "-5"), "-5", b'd'), "7    ");
        assert_eq!(pad(&number(b'x', false, 255, "#06"), "#06", b'x'), "000xff");
    }
}
