//! `add sub mul mad fma min max abs neg div`: which family an instruction belongs to is decided by its type.

use super::{Decoded, Decoder};
use crate::engine::types::Type;

impl Decoder<'_, '_> {
    pub(super) fn arithmetic(&mut self) -> Decoded {
        let ty = self.one_type()?;
        match ty {
            Type::F32 | Type::F64 => self.floating(ty),
            Type::F16 | Type::Bf16 | Type::F16x2 | Type::Bf16x2 => self.half(ty),
            _ if ty.is_integer() || matches!(ty, Type::U16x2 | Type::S16x2) => self.integer_arithmetic(ty),
            _ => Err(self.semantic("this type is not allowed here")),
        }
    }
}
