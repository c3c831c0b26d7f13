//! `require $name …`: variables that must have a value when a probe has been answered.
//!
//! What a variable holds is for the caller to find out; here is which texts name one, and which values will do.

use super::error::MatchError;
use super::reason::{Reason, ReasonKind, quoted};

/// The names in the arguments of a line, without `$` and braces.
pub(super) fn names(args: &[&str]) -> Result<Vec<String>, MatchError> {
    if args.is_empty() {
        return Err(MatchError::Arguments { directive: "require", expected: "variables" });
    }
    args.iter().map(|arg| name(arg).ok_or_else(|| MatchError::Variable((*arg).to_owned()))).collect()
}

fn name(text: &str) -> Option<String> {
    let name = text.strip_prefix('$')?;
    let name = name.strip_prefix('{').map_or(Some(name), |inner| inner.strip_suffix('}'))?;
    let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    // nginx takes names for what they are in lower case.
    plain.then(|| name.to_ascii_lowercase())
}

/// The reason to fail, if `value` of the variable `name` will not do: NGINX Plus wants it neither empty nor "0".
#[must_use]
pub fn unmet(name: &str, value: &[u8]) -> Option<Reason> {
    let line = format!("require ${name}");
    let wanted = "a value that is not empty and not \"0\"";
    matches!(value, b"" | b"0").then(|| Reason::new(ReasonKind::Require, &line, wanted, quoted(value)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::block;
    use super::*;

    #[test]
    fn names_are_those_of_variables() {
        assert_eq!(names(&["$ok", "${Upstream_Status}"]).unwrap(), ["ok", "upstream_status"]);
        for wrong in ["ok", "$", "${}", "${a", "$a$b", "$a-b", "", "$é"] {
            assert_eq!(names(&[wrong]), Err(MatchError::Variable(wrong.to_owned())), "{wrong}");
        }
        assert!(names(&[]).is_err());
    }

    #[test]
    fn empty_and_zero_will_not_do() {
        assert_eq!(unmet("a", b"1"), None);
        assert_eq!(unmet("a", b"00"), None);
        let said = |value| unmet("a", value).map(|reason| reason.to_string());
        assert_eq!(
            said(b"0").as_deref(),
            Some("require $a: wanted a value that is not empty and not \"0\", got \"0\"")
        );
        assert!(said(b"").is_some_and(|text| text.ends_with("got \"\"")));
    }

    #[test]
    fn a_block_of_nothing_else_takes_any_status() {
        let matched = block("require $a $b\nrequire $c").unwrap();
        assert_eq!(matched.required(), ["a", "b", "c"]);
        let answer = super::super::Answer { status: 500, headers: &[], body: b"", body_complete: true };
        assert_eq!(matched.judge(&answer), super::super::Verdict::Pass);
        assert!(block("status 200").unwrap().required().is_empty());
    }
}
