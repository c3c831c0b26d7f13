//! The two messages of `grpc.health.v1`, in protobuf's encoding, with gRPC's five bytes before each.
//!
//! ```proto
//! message HealthCheckRequest { string service = 1; }
//! message HealthCheckResponse { ServingStatus status = 1; }
//! ```
//!
//! The encoding: <https://protobuf.dev/programming-guides/encoding/>.

use bytes::Bytes;

/// The status of a service that takes requests.
pub const SERVING: u64 = 1;
/// Before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// Field 1, as bytes with their length.
const SERVICE: u8 = 0x0a;
/// Field 1.
const STATUS: u64 = 1;

/// Why an answer is not one message of the kind that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("no message in the answer")]
    Empty,
    #[error("the message is compressed")]
    Compressed,
    #[error("the answer is not one whole message")]
    Length,
    #[error("the message is malformed")]
    Malformed,
}

/// The request, ready to be sent.
pub fn question(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(SERVICE);
        put_varint(&mut message, service.len());
        message.extend_from_slice(service.as_bytes());
    }
    // A name comes from a line of configuration, which nginx limits to 4 KB.
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0][..], &length.to_be_bytes(), &message].concat().into()
}

fn put_varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The status in an answer of one message; 0 if it does not say.
pub fn serving(answer: &[u8]) -> Result<u64, WireError> {
    let (prefix, message) = match answer.split_first_chunk::<PREFIX>() {
        Some(split) => split,
        None if answer.is_empty() => return Err(WireError::Empty),
        None => return Err(WireError::Length),
    };
    let [compressed, length @ ..] = *prefix;
    if u32::from_be_bytes(length) as usize != message.len() {
        return Err(WireError::Length);
    }
    if compressed != 0 {
        return Err(WireError::Compressed);
    }
    status(message).ok_or(WireError::Malformed)
}

/// What the status of that number is called.
pub fn serving_name(status: u64) -> String {
    match status {
        0 => "UNKNOWN".to_owned(),
        1 => "SERVING".to_owned(),
        2 => "NOT_SERVING".to_owned(),
        3 => "SERVICE_UNKNOWN".to_owned(),
        other => other.to_string(),
    }
}

/// The last value of field 1; other fields are passed over. None if the message is malformed.
fn status(mut message: &[u8]) -> Option<u64> {
    let mut status = 0;
    while !message.is_empty() {
        let tag = take_varint(&mut message)?;
        let skip = match tag & 7 {
            0 => {
                let value = take_varint(&mut message)?;
                if tag >> 3 == STATUS {
                    status = value;
                }
                0
            }
            1 => 8,
            2 => usize::try_from(take_varint(&mut message)?).ok()?,
            5 => 4,
            _ => return None,
        };
        message = message.get(skip..)?;
    }
    Some(status)
}

fn take_varint(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn questions() {
        assert_eq!(question(""), &[0, 0, 0, 0, 0][..]);
        assert_eq!(question("a.B"), &b"\0\0\0\0\x05\x0a\x03a.B"[..]);
        let long = question(&"x".repeat(300));
        assert_eq!(long[..8], *b"\0\0\0\x01\x2f\x0a\xac\x02");
        assert_eq!(long.len(), 308);
    }

    #[test]
    fn answers() {
        for (answer, wanted) in [
            (&b"\0\0\0\0\x02\x08\x01"[..], Ok(SERVING)),
            (b"\0\0\0\0\x02\x08\x02", Ok(2)),
            (b"\0\0\0\0\x00", Ok(0)),
            // Fields of every kind that are not ours, and ours twice.
            (b"\0\0\0\0\x16\x08\x02\x12\x02ab\x19........\x25....\x08\x01", Ok(SERVING)),
            (b"", Err(WireError::Empty)),
            (b"\0\0\0\0", Err(WireError::Length)),
            (b"\0\0\0\0\x02\x08", Err(WireError::Length)),
            (b"\0\0\0\0\x00\0\0\0\0\x00", Err(WireError::Length)),
            (b"\x01\0\0\0\x02\x08\x01", Err(WireError::Compressed)),
            (b"\0\0\0\0\x01\x08", Err(WireError::Malformed)),
            (b"\0\0\0\0\x02\x12\x7f", Err(WireError::Malformed)),
            (b"\0\0\0\0\x01\x0b", Err(WireError::Malformed)),
            (b"\0\0\0\0\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Err(WireError::Malformed)),
        ] {
            assert_eq!(serving(answer), wanted, "{}", answer.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn no_answer_is_too_strange(message in proptest::collection::vec(any::<u8>(), 0..64)) {
            let length = (message.len() as u32).to_be_bytes();
            let _ = serving(&message);
            let _ = serving(&[&[0][..], &length, &message].concat());
        }
    }
}
