//! The arguments of a request.

use super::Fields;

/// `a=1&b=2`, as it came.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<u8>);

impl Query {
    pub fn new(args: &[u8]) -> Self {
        Self(args.to_vec())
    }

    /// The first argument of this name, decoded; what is not UTF-8 as in [`text`](super::text).
    pub fn get(&self, name: &str) -> Option<String> {
        self.0.split(|byte| *byte == b'&').find_map(|one| {
            let at = one.iter().position(|byte| *byte == b'=')?;
            (decode(&one[..at], true) == name.as_bytes()).then(|| super::text(&decode(&one[at + 1..], true)))
        })
    }

    /// The first argument of this name as a number; `Err` if it is none.
    pub fn number(&self, name: &str) -> Result<Option<u64>, ()> {
        self.get(name).map(|text| text.parse().map_err(|_| ())).transpose()
    }

    /// `fields`
    pub fn fields(&self) -> Option<Fields> {
        self.get("fields").map(|text| Fields::parse(&text))
    }
}

/// Percent-decoding; a percent sign that begins no code stands for itself. `plus`: a plus sign is a space, as in arguments.
pub fn decode(text: &[u8], plus: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        rest = tail;
        out.push(match (first, tail) {
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                rest = after;
                nibble(*high) << 4 | nibble(*low)
            }
            (b'+', _) if plus => b' ',
            (byte, _) => *byte,
        });
    }
    out
}

fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}
