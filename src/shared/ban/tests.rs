//! A zone against the rules written out plainly, and by several workers at once.
use super::*;
