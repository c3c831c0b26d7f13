//! Status codes and the cells that count them.

/// 1xx to 5xx.
pub const CLASSES: usize = 5;

/// Every code of the IANA registry of HTTP status codes, those that nginx makes up for its log (444, 494 to 499),
/// and a few that proxies in front of applications are known to answer with (420, 509, 520 to 526, 529, 530).
const CODES: [u16; KNOWN] = [
    100, 101, 102, 103, 104, //
    200, 201, 202, 203, 204, 205, 206, 207, 208, 226, //
    300, 301, 302, 303, 304, 305, 306, 307, 308, //
    400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 420, 421,
    422, 423, 424, 425, 426, 428, 429, 431, 444, 451, 494, 495, 496, 497, 498, 499, //
    500, 501, 502, 503, 504, 505, 506, 507, 508, 509, 510, 511, 520, 521, 522, 523, 524, 525, 526, 529, 530,
];

/// How many codes have a cell.
pub const KNOWN: usize = 82;

const FIRST: u16 = 100;
const SPAN: usize = 500;
const NONE: u8 = u8::MAX;

/// From a code, less 100, to its cell.
static INDEX: [u8; SPAN] = {
    let mut index = [NONE; SPAN];
    let mut at = 0;
    while at < KNOWN {
        index[(CODES[at] - FIRST) as usize] = at as u8;
        at += 1;
    }
    index
};

/// The cell of a code; `None` for one that is in no registry.
#[must_use]
pub fn index_of(code: u16) -> Option<usize> {
    let index = *INDEX.get(usize::from(code.checked_sub(FIRST)?))?;
    (index != NONE).then_some(usize::from(index))
}

/// The code of a cell.
#[must_use]
pub fn code_at(index: usize) -> Option<u16> {
    CODES.get(index).copied()
}

/// 0 for 1xx to 4 for 5xx; `None` for what is no status of HTTP.
#[must_use]
pub fn class_of(code: u16) -> Option<usize> {
    match code {
        100..=599 => Some(usize::from(code / 100 - 1)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_and_codes_are_each_other_s_inverse() {
        for (index, code) in CODES.into_iter().enumerate() {
            assert_eq!((index_of(code), code_at(index)), (Some(index), Some(code)));
        }
        assert!(CODES.is_sorted() && code_at(KNOWN).is_none());
        let known = (0..=u16::MAX).filter(|code| index_of(*code).is_some()).count();
        assert_eq!(known, KNOWN);
    }

    #[test]
    fn classes_are_the_first_digit() {
        for (code, class) in [(100, 0), (199, 0), (204, 1), (308, 2), (499, 3), (599, 4)] {
            assert_eq!(class_of(code), Some(class));
        }
        for code in [0, 9, 99, 600, 999, u16::MAX] {
            assert_eq!((class_of(code), index_of(code)), (None, None));
        }
    }
}
