//! SQLSTATEs as the server packs them into an int.

/// As elog.h's MAKE_SQLSTATE packs it: six bits a character.
pub fn packed(sqlstate: &str) -> i32 {
    sqlstate.bytes().rev().fold(0, |code, byte| (code << 6) | ((i32::from(byte) - i32::from(b'0')) & 0x3F))
}

/// Whether an error says that a query is wrong, not that something went wrong with it: syntax and access, data, features, limits.
pub fn is_fault_of_query(sqlstate: i32) -> bool {
    is_of_class(sqlstate, &["42000", "22000", "0A000", "54000"])
}

/// Whether an error says that the server could not go on, whatever the query is: a conflict between transactions, resources, an
/// object in use, a cancellation, the system, a defect.
pub fn is_fault_of_server(sqlstate: i32) -> bool {
    is_of_class(sqlstate, &["40000", "53000", "55000", "57000", "58000", "F0000", "XX000"])
}

fn is_of_class(sqlstate: i32, classes: &[&str]) -> bool {
    const CLASS: i32 = 0xFFF;
    classes.iter().any(|class| packed(class) & CLASS == sqlstate & CLASS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlstates_are_packed_as_the_server_does() {
        assert_eq!(packed("00000"), 0);
        assert_eq!(packed("01000"), 64);
        // ERRCODE_RAISE_EXCEPTION, as pgrx has it from errcodes.h.
        assert_eq!(packed("P0001"), 16_777_248);
    }

    #[test]
    fn a_query_is_to_blame_for_some_errors_and_the_server_for_others() {
        for (sqlstate, query, server) in
            [("42P01", true, false), ("22012", true, false), ("40P01", false, true), ("P0001", false, false)]
        {
            let sqlstate = packed(sqlstate);
            assert_eq!((is_fault_of_query(sqlstate), is_fault_of_server(sqlstate)), (query, server));
        }
    }
}
