//! The `asft` program.

fn main() {}
