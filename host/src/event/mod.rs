//! From the bytes of a delivery to the state it stands for.

pub mod row;
