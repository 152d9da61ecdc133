//! In-server tests: the SQL surface and capture, seen through SPI, in transactions rolled back after.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    #[pg_test]
    fn a_caught_error_is_known_by_its_sqlstate() {
        assert_eq!(crate::surface::sqlstate_of_a_division_by_zero().as_deref(), Some("22012"));
    }
}
