//! JSON text, written by hand because the capture path builds it byte by byte.
//!
//! Serves the template step: whatever a row holds, what these functions append keeps the payload
//! valid JSON. Bytes are in the database's own encoding; every server encoding PostgreSQL accepts
//! is a superset of ASCII whose multibyte characters never contain an ASCII byte, so escaping the
//! ASCII bytes JSON names is enough in all of them.
#![forbid(unsafe_code)]

use std::io::Write;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends `text` as it must stand between two quotes of a JSON string.
pub fn push_escaped(out: &mut Vec<u8>, text: &[u8]) {
    let mut clean_from = 0;
    for (at, &byte) in text.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&text[clean_from..at]);
        clean_from = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                out.extend_from_slice(b"\\u00");
                push_hex_byte(out, byte);
            }
        }
    }
    out.extend_from_slice(&text[clean_from..]);
}

/// What a backslash in a JSON string begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escape {
    /// A character; so many bytes of text stand for it, the backslash among them.
    Character(usize),
    /// U+0000, which PostgreSQL and Lago cannot store.
    Zero,
    /// Half of a pair that names one character beyond U+FFFF.
    Half,
    Unknown,
}

/// Reads the escape that `text` begins with.
pub fn escape(text: &str) -> Escape {
    let unit = |from: usize| {
        let digits = text.get(from..)?.strip_prefix("\\u")?.get(..4)?;
        digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
    };
    match text.as_bytes().get(1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Escape::Character(2),
        Some(b'u') => match (unit(0), unit(6)) {
            (None, _) => Escape::Unknown,
            (Some(0), _) => Escape::Zero,
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => Escape::Character(12),
            (Some(0xd800..=0xdfff), _) => Escape::Half,
            (Some(_), _) => Escape::Character(6),
        },
        _ => Escape::Unknown,
    }
}

/// Appends a whole JSON string, quotes included.
pub fn push_string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    push_escaped(out, text);
    out.push(b'"');
}

/// Appends an integer.
pub fn push_integer(out: &mut Vec<u8>, value: i64) {
    push_display(out, value);
}

/// Appends a finite double in its shortest exact form, without exponent (Lago's aggregations skip
/// numeric text in exponent form). Says false, and appends nothing, for NaN and the infinities.
#[must_use]
pub fn push_float8(out: &mut Vec<u8>, value: f64) -> bool {
    if value.is_finite() {
        push_display(out, value);
    }
    value.is_finite()
}

/// As [`push_float8`], with the shortest digits that name the same `real`.
#[must_use]
pub fn push_float4(out: &mut Vec<u8>, value: f32) -> bool {
    if value.is_finite() {
        push_display(out, value);
    }
    value.is_finite()
}

fn push_display(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    // Writing into a Vec cannot fail.
    let _ = write!(out, "{value}");
}

/// Appends bytes in PostgreSQL's hex form, `\x` first: what `bytea_output = hex` shows.
pub fn push_hex(out: &mut Vec<u8>, bytes: &[u8], backslash: &[u8]) {
    out.extend_from_slice(backslash);
    out.push(b'x');
    for byte in bytes {
        push_hex_byte(out, *byte);
    }
}

/// Appends one byte as two lowercase hexadecimal digits.
pub fn push_hex_byte(out: &mut Vec<u8>, byte: u8) {
    out.push(HEX[usize::from(byte >> 4)]);
    out.push(HEX[usize::from(byte & 15)]);
}

/// Appends microseconds since the Unix epoch as decimal seconds: `1710421740.123456`, without a
/// fraction when there is none.
pub fn push_unix_seconds(out: &mut Vec<u8>, micros: i64) {
    let (seconds, fraction) = (micros.unsigned_abs() / 1_000_000, micros.unsigned_abs() % 1_000_000);
    if micros < 0 {
        out.push(b'-');
    }
    push_display(out, seconds);
    if fraction != 0 {
        let _ = write!(out, ".{fraction:06}");
    }
}

/// Whether `text` is a decimal number in the one form every part of Lago reads alike: an optional
/// minus, digits, and optionally a point and more digits.
pub fn is_plain_decimal(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let mut parts = digits.splitn(2, |&byte| byte == b'.');
    let all_digits = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    parts.next().is_some_and(all_digits) && parts.next().is_none_or(all_digits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("UTF-8 in, UTF-8 out")
    }

    #[test]
    fn escapes_are_told_apart() {
        for (text, expected) in [
            (r"\n rest", Escape::Character(2)),
            (r"\u00e9", Escape::Character(6)),
            (r"\ud83d\ude00!", Escape::Character(12)),
            (r"\uD83D", Escape::Half),
            (r"\ud83d\u0041", Escape::Half),
            (r"\ude00\ud83d", Escape::Half),
            (r"\u0000", Escape::Zero),
            (r"\q", Escape::Unknown),
            (r"\u12g4", Escape::Unknown),
            (r"\u+123", Escape::Unknown),
            ("\\", Escape::Unknown),
            ("\\ué12", Escape::Unknown),
        ] {
            assert_eq!(escape(text), expected, "{text}");
        }
    }

    #[test]
    fn unix_seconds_keep_every_microsecond() {
        assert_eq!(written(|out| push_unix_seconds(out, 1_710_421_740_123_456)), "1710421740.123456");
        assert_eq!(written(|out| push_unix_seconds(out, 1_710_421_740_000_001)), "1710421740.000001");
        assert_eq!(written(|out| push_unix_seconds(out, 1_710_421_740_000_000)), "1710421740");
        assert_eq!(written(|out| push_unix_seconds(out, -500_000)), "-0.500000");
    }

    #[test]
    fn floats_are_written_without_exponent() {
        assert_eq!(written(|out| assert!(push_float8(out, 1e-7))), "0.0000001");
        assert_eq!(written(|out| assert!(push_float8(out, 1e21))), "1000000000000000000000");
        assert_eq!(written(|out| assert!(push_float4(out, 0.1))), "0.1");
        assert!(!push_float8(&mut Vec::new(), f64::NAN));
        assert!(!push_float4(&mut Vec::new(), f32::NEG_INFINITY));
    }

    #[test]
    fn only_one_spelling_of_a_number_is_plain() {
        for good in ["0", "-1", "10.50", "1710421740.123"] {
            assert!(is_plain_decimal(good.as_bytes()), "{good}");
        }
        for bad in ["", "-", ".5", "5.", "+3", " 5", "1e9", "1,000", "NaN", "1.2.3"] {
            assert!(!is_plain_decimal(bad.as_bytes()), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_survives_a_json_parser(text in any::<String>()) {
            let json = written(|out| push_string(out, text.as_bytes()));
            prop_assert_eq!(serde_json::from_str::<String>(&json).expect("valid JSON"), text);
        }

        #[test]
        fn any_finite_double_survives_a_json_parser(value in any::<f64>().prop_filter("finite", |v| v.is_finite())) {
            let json = written(|out| assert!(push_float8(out, value)));
            prop_assert!(!json.contains(['e', 'E']));
            prop_assert_eq!(json.parse::<f64>().expect("a number"), value);
        }
    }
}
