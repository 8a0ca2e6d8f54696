//! What an operation must cost whoever computes it: every operand read once, every result written once, every product.

use serde::Serialize;

use super::Rates;

/// Bytes and operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Bytes that must be read or written.
    pub bytes: u64,
    /// Operations of matrix products and attention; those of element-wise work do not count.
    pub flops: u64,
}

/// The rate that an operation could reach at best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Of copying.
    Copy,
    /// Of multiplying.
    Product,
}

impl Cost {
    /// Of moving so many bytes.
    pub fn bytes(bytes: usize) -> Self {
        Self { bytes: bytes as u64, flops: 0 }
    }

    /// Of a product with operands and result of so many bytes.
    pub fn product(m: usize, n: usize, k: usize, bytes: usize) -> Self {
        Self { bytes: bytes as u64, flops: 2 * (m * n * k) as u64 }
    }

    /// Which of the two would take longer at a device's best rates.
    pub fn bound(self, rates: Rates) -> Bound {
        let copying = self.bytes as f64 / (rates.copy_gb_per_s * 1e9);
        let multiplying = self.flops as f64 / (rates.product_tflops_per_s * 1e12);
        if multiplying > copying { Bound::Product } else { Bound::Copy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_of_the_two_bounds() {
        let rates = Rates { copy_gb_per_s: 4.0, product_tflops_per_s: 1.0 };
        // A millisecond each.
        let (bytes, flops) = (4_000_000, 1_000_000_000);
        assert_eq!(Cost { bytes, flops: flops - 1 }.bound(rates), Bound::Copy);
        assert_eq!(Cost { bytes, flops: flops + 1 }.bound(rates), Bound::Product);
        assert_eq!(Cost::product(10, 20, 30, 4).flops, 12_000);
    }
}
