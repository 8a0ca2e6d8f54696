//! Conversions against the definitions of the formats, worked in f64.

use asft::DType;

/// The value of a small float by its definition: sign, exponent and fraction of the given widths.
fn value_of(bits: u16, exponent_bits: u32, fraction_bits: u32) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let fraction = f64::from(bits & ((1 << fraction_bits) - 1));
    let exponent = i32::from((bits >> fraction_bits) & ((1 << exponent_bits) - 1));
    let bias = (1 << (exponent_bits - 1)) - 1;
    let unit = 2f64.powi(-(fraction_bits as i32));
    match exponent {
        0 => sign * fraction * unit * 2f64.powi(1 - bias),
        _ if exponent == (1 << exponent_bits) - 1 && fraction == 0.0 => sign * f64::INFINITY,
        _ if exponent == (1 << exponent_bits) - 1 => f64::NAN,
        _ => sign * (1.0 + fraction * unit) * 2f64.powi(exponent - bias),
    }
}

fn decode(dtype: DType, bits: &[u16]) -> Vec<f32> {
    let bytes: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
    let mut out = vec![0.0; bits.len()];
    dtype.decode(&bytes, &mut out);
    out
}

fn encode(dtype: DType, values: &[f32]) -> Vec<u16> {
    let mut bytes = vec![0; values.len() * dtype.size()];
    dtype.encode(values, &mut bytes);
    bytes.chunks(2).map(|raw| u16::from_le_bytes([raw[0], raw[1]])).collect()
}

const HALVES: [(DType, u32, u32); 2] = [(DType::F16, 5, 10), (DType::BF16, 8, 7)];

#[test]
fn every_pattern_decodes_to_its_value_and_back() {
    let bits: Vec<u16> = (0..=u16::MAX).collect();
    for (dtype, exponent, fraction) in HALVES {
        let values = decode(dtype, &bits);
        let again = encode(dtype, &values);
        for ((bits, value), again) in bits.iter().zip(&values).zip(again) {
            let expected = value_of(*bits, exponent, fraction);
            if expected.is_nan() {
                assert!(
                    value.is_nan() && value_of(again, exponent, fraction).is_nan(),
                    "{dtype} {bits:#06x}"
                );
            } else {
                assert_eq!(f64::from(*value), expected, "{dtype} {bits:#06x}");
                assert_eq!(again, *bits, "{dtype} {value}");
            }
        }
    }
}

/// Between each two neighbours: below the middle rounds down, above it up, the middle to the even one.
#[test]
fn rounds_to_nearest_ties_to_even() {
    for (dtype, exponent, fraction) in HALVES {
        // Finite and positive, the largest excepted: above it lies infinity.
        let largest = (((1u16 << exponent) - 1) << fraction) - 1;
        for low in 0..largest {
            let (a, b) = (value_of(low, exponent, fraction), value_of(low + 1, exponent, fraction));
            let middle = ((a + b) / 2.0) as f32;
            if f64::from(middle) != (a + b) / 2.0 {
                continue; // bf16's smallest: the middle is no f32
            }
            let even = if low % 2 == 0 { low } else { low + 1 };
            let inputs = [middle.next_down(), middle, middle.next_up()];
            let rounded = encode(dtype, &inputs);
            assert_eq!(rounded, [low, even, low + 1], "{dtype} {inputs:?}");
            let negative = encode(dtype, &inputs.map(|value| -value));
            assert_eq!(negative, rounded.iter().map(|bits| bits | 0x8000).collect::<Vec<_>>(), "{dtype}");
        }
    }
    assert_eq!(encode(DType::F16, &[65519.0, 65520.0, -1e9]), [0x7bff, 0x7c00, 0xfc00]);
}

#[test]
fn f32_keeps_its_bits_and_blocks_join() {
    let values: Vec<f32> =
        (0..5000u32).map(|index| f32::from_bits(index.wrapping_mul(0x9e37_79b9))).collect();
    let mut bytes = vec![0; 20_000];
    DType::F32.encode(&values, &mut bytes);
    let mut again = vec![0.0; 5000];
    DType::F32.decode(&bytes, &mut again);
    assert!(values.iter().zip(&again).all(|(a, b)| a.to_bits() == b.to_bits()));
    // 5000 is no multiple of the block the 16-bit formats are converted in; one odd byte spoils alignment.
    for (dtype, ..) in HALVES {
        let bits: Vec<u16> = (0..5000).map(|index| 0x3c00 + index % 700).collect();
        let mut shifted = vec![0u8];
        shifted.extend(bits.iter().flat_map(|bits| bits.to_le_bytes()));
        let mut out = vec![0.0; 5000];
        dtype.decode(&shifted[1..], &mut out);
        assert_eq!(encode(dtype, &out), bits);
    }
}

#[test]
fn names_of_others_are_understood() {
    for (name, dtype) in [
        ("f32", DType::F32),
        ("float32", DType::F32),
        ("torch.bfloat16", DType::BF16),
        ("bf16", DType::BF16),
        ("fp16", DType::F16),
    ] {
        assert_eq!(name.parse(), Ok(dtype));
    }
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        assert_eq!(dtype.torch_name().parse(), Ok(dtype));
        assert_eq!(DType::from_safetensors_name(dtype.safetensors_name()), Some(dtype));
        assert_eq!(serde_json::to_value(dtype).unwrap(), dtype.name());
        assert_eq!(serde_json::from_value::<DType>(dtype.torch_name().into()).unwrap(), dtype);
    }
    assert_eq!(
        "float64".parse::<DType>().unwrap_err().to_string(),
        "unknown number format \"float64\": use f32, f16 or bf16"
    );
}
