//! Numbers, exact: what `numeric`, `bigint` and JSON numbers are in a template.
//!
//! A number has at most [`MOST_DIGITS`] digits on either side of its point, so that no exponent in
//! a row can fill the memory; and it is printed without exponent, because Lago's aggregations skip
//! numeric text in exponent form.
#![forbid(unsafe_code)]

use bigdecimal::num_bigint::{BigInt, Sign};
use bigdecimal::{BigDecimal, RoundingMode};
use std::cmp::Ordering;
use std::str::FromStr;

/// PostgreSQL's `numeric` reaches 131,072 digits before and 16,383 after the point.
pub const MOST_DIGITS: i64 = 200_000;

/// Digits behind the point of a quotient that has no end.
const QUOTIENT_DIGITS: i64 = 20;

/// An integer or a decimal. The difference is one of type, not of value: dividing two integers gives
/// an integer, as in Liquid; a `numeric` is a decimal even when it holds 10.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Number {
    Integer(i64),
    /// Beyond 64 bits.
    Large(BigInt),
    Decimal(BigDecimal),
}

/// Why an operation has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Impossible {
    DivisionByZero,
    TooLarge,
}

use Number::{Decimal, Integer, Large};

impl Number {
    /// Reads a number as JSON, `numeric` or a person writes it; `None` if it is none.
    pub fn parse(text: &str) -> Option<Result<Number, Impossible>> {
        let text = text.trim();
        if let Ok(integer) = text.parse::<i64>() {
            return Some(Ok(Integer(integer)));
        }
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
            Some(at) => (&unsigned[..at], Some(&unsigned[at + 1..])),
            None => (unsigned, None),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (mantissa, None),
        };
        let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let is_number = all_digits(whole)
            && fraction.is_none_or(all_digits)
            && exponent
                .is_none_or(|exponent| all_digits(exponent.strip_prefix(['-', '+']).unwrap_or(exponent)));
        if !is_number {
            return None;
        }
        if mantissa.len() as i64 > 2 * MOST_DIGITS {
            return Some(Err(Impossible::TooLarge));
        }
        if fraction.is_none() && exponent.is_none() {
            return Some(match BigInt::from_str(text) {
                Ok(value) => Number::from_big(value).bounded(),
                Err(_) => Err(Impossible::TooLarge),
            });
        }
        // The text is a number, so what is wrong with it can only be the size of its exponent.
        Some(match BigDecimal::from_str(text) {
            Ok(value) => Decimal(value).bounded(),
            Err(_) => Err(Impossible::TooLarge),
        })
    }

    /// As [`Number::parse`], for a column whose type is `numeric` or a float.
    pub fn parse_decimal(text: &str) -> Option<Result<Number, Impossible>> {
        Some(Number::parse(text)?.map(|number| Decimal(number.into_decimal())))
    }

    fn from_big(value: BigInt) -> Number {
        i64::try_from(&value).map_or(Large(value), Integer)
    }

    fn bounded(self) -> Result<Number, Impossible> {
        let most_bits = (MOST_DIGITS as u64) * 10 / 3;
        let fits = match &self {
            Integer(_) => true,
            Large(value) => value.bits() <= most_bits,
            Decimal(value) => {
                let (digits, scale) = value.as_bigint_and_scale();
                digits.bits() <= most_bits && (-MOST_DIGITS..=MOST_DIGITS).contains(&scale)
            }
        };
        if fits { Ok(self) } else { Err(Impossible::TooLarge) }
    }

    /// A measure of the work an operation on this number takes: the square of its length, scaled so
    /// that an everyday number counts nothing.
    pub fn weight(&self) -> u64 {
        let bits = match self {
            Integer(_) => 0,
            Large(value) => value.bits(),
            Decimal(value) => {
                let (digits, scale) = value.as_bigint_and_scale();
                digits.bits().saturating_add(scale.unsigned_abs().saturating_mul(4))
            }
        };
        (bits / 1024).saturating_mul(bits / 1024)
    }

    fn into_decimal(self) -> BigDecimal {
        match self {
            Integer(value) => BigDecimal::from(value),
            Large(value) => BigDecimal::from(value),
            Decimal(value) => value,
        }
    }

    fn into_big(self) -> Result<BigInt, BigDecimal> {
        match self {
            Integer(value) => Ok(BigInt::from(value)),
            Large(value) => Ok(value),
            Decimal(value) => Err(value),
        }
    }

    fn is_zero(&self) -> bool {
        match self {
            Integer(value) => *value == 0,
            Large(value) => value.sign() == Sign::NoSign,
            Decimal(value) => value.sign() == Sign::NoSign,
        }
    }

    fn is_negative(&self) -> bool {
        match self {
            Integer(value) => *value < 0,
            Large(value) => value.sign() == Sign::Minus,
            Decimal(value) => value.sign() == Sign::Minus,
        }
    }

    fn combine(
        self,
        other: Number,
        small: fn(i64, i64) -> Option<i64>,
        large: fn(BigInt, BigInt) -> BigInt,
        decimal: fn(BigDecimal, BigDecimal) -> BigDecimal,
    ) -> Result<Number, Impossible> {
        if let (Integer(a), Integer(b)) = (&self, &other)
            && let Some(result) = small(*a, *b)
        {
            return Ok(Integer(result));
        }
        match (self.into_big(), other.into_big()) {
            (Ok(a), Ok(b)) => Number::from_big(large(a, b)),
            (Err(a), Err(b)) => Decimal(decimal(a, b)),
            (Ok(a), Err(b)) => Decimal(decimal(BigDecimal::from(a), b)),
            (Err(a), Ok(b)) => Decimal(decimal(a, BigDecimal::from(b))),
        }
        .bounded()
    }

    pub fn plus(self, other: Number) -> Result<Number, Impossible> {
        self.combine(other, i64::checked_add, |a, b| a + b, |a, b| a + b)
    }

    pub fn minus(self, other: Number) -> Result<Number, Impossible> {
        self.combine(other, i64::checked_sub, |a, b| a - b, |a, b| a - b)
    }

    pub fn times(self, other: Number) -> Result<Number, Impossible> {
        self.combine(other, i64::checked_mul, |a, b| a * b, |a, b| a * b)
    }

    /// Two integers give the integer below the quotient, as in Ruby's Liquid; with a decimal the
    /// quotient is exact, or has at least twenty digits behind its point.
    pub fn divided_by(self, other: Number) -> Result<Number, Impossible> {
        if other.is_zero() {
            return Err(Impossible::DivisionByZero);
        }
        match (self.into_big(), other.into_big()) {
            (Ok(a), Ok(b)) => Number::from_big(floor_quotient(&a, &b)).bounded(),
            (Err(a), Err(b)) => quotient(&a, &b),
            (Ok(a), Err(b)) => quotient(&BigDecimal::from(a), &b),
            (Err(a), Ok(b)) => quotient(&a, &BigDecimal::from(b)),
        }
    }

    /// What is left of a division, with the divisor's sign.
    pub fn modulo(self, other: Number) -> Result<Number, Impossible> {
        if other.is_zero() {
            return Err(Impossible::DivisionByZero);
        }
        match (self.into_big(), other.into_big()) {
            (Ok(a), Ok(b)) => Ok(Number::from_big(&a - floor_quotient(&a, &b) * &b)),
            (Err(a), Err(b)) => remainder(&a, &b),
            (Ok(a), Err(b)) => remainder(&BigDecimal::from(a), &b),
            (Err(a), Ok(b)) => remainder(&a, &BigDecimal::from(b)),
        }
    }

    /// Rounds half away from zero, as PostgreSQL does. No digits give an integer.
    pub fn round(self, digits: i64) -> Result<Number, Impossible> {
        self.rounded(digits, RoundingMode::HalfUp)
    }

    pub fn ceil(self) -> Result<Number, Impossible> {
        self.rounded(0, RoundingMode::Ceiling)
    }

    pub fn floor(self) -> Result<Number, Impossible> {
        self.rounded(0, RoundingMode::Floor)
    }

    fn rounded(self, digits: i64, mode: RoundingMode) -> Result<Number, Impossible> {
        if !(-MOST_DIGITS..=MOST_DIGITS).contains(&digits) {
            return Err(Impossible::TooLarge);
        }
        let value = match self {
            Integer(_) | Large(_) if digits >= 0 => return Ok(self),
            number => number.into_decimal(),
        };
        let rounded = value.with_scale_round(digits, mode);
        if digits > 0 {
            return Decimal(rounded).bounded();
        }
        Number::from_big(rounded.with_scale(0).into_bigint_and_scale().0).bounded()
    }

    pub fn abs(self) -> Result<Number, Impossible> {
        if self.is_negative() { Integer(0).minus(self) } else { Ok(self) }
    }

    pub fn at_least(self, least: Number) -> Number {
        if self.compare(&least) == Ordering::Less { least } else { self }
    }

    pub fn at_most(self, most: Number) -> Number {
        if self.compare(&most) == Ordering::Greater { most } else { self }
    }

    pub fn compare(&self, other: &Number) -> Ordering {
        match (self, other) {
            (Integer(a), Integer(b)) => a.cmp(b),
            (Decimal(a), Decimal(b)) => a.cmp(b),
            (a, b) => a.clone().into_decimal().cmp(&b.clone().into_decimal()),
        }
    }

    /// Appends the digits, without exponent.
    pub fn print(&self, out: &mut String) {
        use std::fmt::Write;
        // Writing into a String cannot fail.
        let _ = match self {
            Integer(value) => write!(out, "{value}"),
            Large(value) => write!(out, "{value}"),
            Decimal(value) => value.write_plain_string(out),
        };
    }

    /// The number as a count or index, if it is an integer that fits.
    pub fn as_index(&self) -> Option<i64> {
        match self {
            Integer(value) => Some(*value),
            Large(_) => None,
            Decimal(value) => {
                // Beyond twenty digits there is no index, and looking would cost.
                let (digits, scale) = value.as_bigint_and_scale();
                if digits.bits() > 256 || !(-20..=100).contains(&scale) || !value.is_integer() {
                    return None;
                }
                i64::try_from(value.with_scale(0).into_bigint_and_scale().0).ok()
            }
        }
    }

    /// Seconds as whole microseconds, if they can be a point in time.
    pub fn as_micros(&self) -> Option<i128> {
        match self {
            Integer(value) => Some(i128::from(*value) * 1_000_000),
            Large(_) => None,
            Decimal(value) => {
                let (digits, scale) = value.as_bigint_and_scale();
                if digits.bits() > 256 || !(-20..=100).contains(&scale) {
                    return None;
                }
                let micros = value.with_scale_round(6, RoundingMode::Floor).into_bigint_and_scale().0;
                i128::try_from(micros).ok()
            }
        }
    }
}

fn floor_quotient(a: &BigInt, b: &BigInt) -> BigInt {
    let quotient = a / b;
    let exact = &quotient * b == *a;
    if !exact && (a.sign() == Sign::Minus) != (b.sign() == Sign::Minus) { quotient - 1 } else { quotient }
}

fn ten_to_the(exponent: i64) -> BigInt {
    BigInt::from(10).pow(u32::try_from(exponent).unwrap_or(0))
}

/// Divides in whole numbers, so that it is known how many digits are right: all that are printed.
fn quotient(a: &BigDecimal, b: &BigDecimal) -> Result<Number, Impossible> {
    let (a_digits, a_scale) = a.as_bigint_and_scale();
    let (b_digits, b_scale) = b.as_bigint_and_scale();
    // A quotient of decimals that has an end has it within this many digits for everyday divisors.
    let scale = QUOTIENT_DIGITS.max(a_scale - b_scale) + b_scale.clamp(0, QUOTIENT_DIGITS);
    let shift = scale - a_scale + b_scale;
    let (dividend, divisor) = if shift >= 0 {
        (a_digits.as_ref() * ten_to_the(shift), b_digits.into_owned())
    } else {
        (a_digits.into_owned(), b_digits.as_ref() * ten_to_the(-shift))
    };
    let twice: BigInt = &dividend * 2 / &divisor;
    // Half away from zero, from the doubled quotient.
    let rounded = if twice.sign() == Sign::Minus { (twice - 1) / 2 } else { (twice + 1) / 2 };
    Decimal(without_trailing_zeros(rounded, scale)).bounded()
}

fn without_trailing_zeros(digits: BigInt, scale: i64) -> BigDecimal {
    let value = BigDecimal::new(digits, scale).normalized();
    if value.as_bigint_and_scale().1 < 0 { value.with_scale(0) } else { value }
}

fn remainder(a: &BigDecimal, b: &BigDecimal) -> Result<Number, Impossible> {
    let scale = a.as_bigint_and_scale().1.max(b.as_bigint_and_scale().1).max(0);
    let (a, b) =
        (a.with_scale(scale).into_bigint_and_scale().0, b.with_scale(scale).into_bigint_and_scale().0);
    let left = &a - floor_quotient(&a, &b) * &b;
    Decimal(BigDecimal::new(left, scale)).bounded()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(text: &str) -> Number {
        Number::parse(text).expect("a number").expect("in bounds")
    }

    fn printed(number: Result<Number, Impossible>) -> String {
        let mut out = String::new();
        number.expect("a result").print(&mut out);
        out
    }

    #[test]
    fn decimals_stay_exact_where_doubles_would_not() {
        assert_eq!(printed(number("0.1").plus(number("0.2"))), "0.3");
        assert_eq!(printed(number("19.99").times(number("100"))), "1999.00");
        assert_eq!(printed(number("9007199254740993").plus(number("0"))), "9007199254740993");
        assert_eq!(printed(number("9223372036854775807").plus(number("1"))), "9223372036854775808");
        assert_eq!(printed(number("1e3").times(number("1"))), "1000");
    }

    #[test]
    fn integers_divide_downwards_and_decimals_exactly() {
        assert_eq!(printed(number("7").divided_by(number("2"))), "3");
        assert_eq!(printed(number("-7").divided_by(number("2"))), "-4");
        assert_eq!(printed(number("7.0").divided_by(number("2"))), "3.5");
        assert_eq!(printed(number("10.5").divided_by(number("4"))), "2.625");
        assert_eq!(printed(number("1").divided_by(number("3.0"))), "0.333333333333333333333");
        assert_eq!(printed(number("-2.0").divided_by(number("3"))), "-0.66666666666666666667");
        assert_eq!(printed(number("100.0").divided_by(number("1"))), "100");
        assert_eq!(number("1").divided_by(number("0.00")), Err(Impossible::DivisionByZero));
    }

    #[test]
    fn a_remainder_has_the_sign_of_the_divisor() {
        assert_eq!(printed(number("7").modulo(number("3"))), "1");
        assert_eq!(printed(number("-7").modulo(number("3"))), "2");
        assert_eq!(printed(number("7.5").modulo(number("2"))), "1.5");
        assert_eq!(number("1").modulo(number("0")), Err(Impossible::DivisionByZero));
    }

    #[test]
    fn rounding_goes_half_away_from_zero() {
        for (text, digits, expected) in [
            ("2.5", 0, "3"),
            ("-2.5", 0, "-3"),
            ("0.4", 0, "0"),
            ("-0.4", 0, "0"),
            ("183.357", 2, "183.36"),
            ("1234", -2, "1200"),
            ("0.5", -1, "0"),
            ("7", 3, "7"),
        ] {
            assert_eq!(printed(number(text).round(digits)), expected, "{text}");
        }
        assert_eq!(printed(number("1.2").ceil()), "2");
        assert_eq!(printed(number("-1.2").ceil()), "-1");
        assert_eq!(printed(number("-1.2").floor()), "-2");
        assert_eq!(printed(number("-1.20").abs()), "1.20");
        assert_eq!(printed(number("-9223372036854775808").abs()), "9223372036854775808");
    }

    #[test]
    fn no_exponent_fills_the_memory() {
        assert_eq!(Number::parse("1e400000000"), Some(Err(Impossible::TooLarge)));
        assert_eq!(Number::parse("1e-99999999999999999999999"), Some(Err(Impossible::TooLarge)));
        let largest = number(&format!("1{}.0", "0".repeat(131_071)));
        assert_eq!(largest.clone().times(largest), Err(Impossible::TooLarge));
        assert_eq!(number("1.5").round(i64::MAX), Err(Impossible::TooLarge));
    }

    #[test]
    fn what_is_no_number_is_not_taken_for_one() {
        for text in ["", "-", "x", "1x", ".5", "5.", "1e", "NaN", "Infinity", "0x10", "1_000", "1,5"] {
            assert_eq!(Number::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn decimals_agree_with_a_model_of_scaled_integers(a in -1_000_000_000i64..1_000_000_000, b in -1_000_000_000i64..1_000_000_000, s in 0u32..6, t in 0u32..6) {
            let scaled = |digits: i64, scale: u32| Decimal(BigDecimal::new(digits.into(), scale.into()));
            let (wide_a, wide_b) = (i128::from(a) * 10i128.pow(6 - s), i128::from(b) * 10i128.pow(6 - t));
            let is = |number: Result<Number, Impossible>, digits: i128, scale: i64|
                number.expect("a result").compare(&Decimal(BigDecimal::new(digits.into(), scale))) == Ordering::Equal;
            prop_assert!(is(scaled(a, s).plus(scaled(b, t)), wide_a + wide_b, 6));
            prop_assert!(is(scaled(a, s).minus(scaled(b, t)), wide_a - wide_b, 6));
            prop_assert!(is(scaled(a, s).times(scaled(b, t)), i128::from(a) * i128::from(b), i64::from(s + t)));
            prop_assert_eq!(scaled(a, s).compare(&scaled(b, t)), wide_a.cmp(&wide_b));
            if b != 0 {
                let floored = wide_a.div_euclid(wide_b) - i128::from(wide_b < 0 && wide_a.rem_euclid(wide_b) != 0);
                prop_assert!(is(scaled(a, s).modulo(scaled(b, t)), wide_a - floored * wide_b, 6));
                let back = scaled(a, s).divided_by(scaled(b, t)).and_then(|q| q.times(scaled(b, t))).and_then(|p| p.minus(scaled(a, s))).and_then(Number::abs).expect("a result");
                prop_assert_eq!(back.compare(&Decimal(BigDecimal::new(1.into(), 10))), Ordering::Less);
            }
        }
    }
}
