//! Single instructions against Rust's own arithmetic, on special and random values. Written in PTX: no NVRTC is needed.

use crate::harness::Device;
use half::{bf16, f16};
use proptest::prelude::{any, proptest};
use proptest::prop_assert_eq;

/// PTX register type, register letter and width in bytes of an operand.
fn shape(ty: &str) -> (&'static str, usize) {
    match ty {
        "u16" | "s16" | "f16" | "bf16" | "b16" => ("b16", 2),
        "u64" | "s64" | "f64" | "b64" => ("b64", 8),
        _ => ("b32", 4),
    }
}

/// Runs `instruction d, a, b...` on every row of operands; operands and results as bits.
fn evaluate(instruction: &str, result: &str, operands: &[&str], rows: &[Vec<u64>]) -> Vec<u64> {
    let device = Device::new();
    let (result_type, result_bytes) = shape(result);
    let mut registers = format!(".reg .{result_type} %d;\n");
    let mut loads = String::new();
    let mut names = vec!["%d".to_owned()];
    for (index, operand) in operands.iter().enumerate() {
        let (ty, _) = shape(operand);
        registers.push_str(&format!(".reg .{ty} %a{index};\n"));
        loads.push_str(&format!("ld.global.{ty} %a{index}, [%in+{}];\n", 8 * index));
        names.push(format!("%a{index}"));
    }
    let stride = 8 * operands.len();
    let ptx = format!(
        ".version 8.8\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 in, .param .u64 out, .param .u32 n)\n\
         {{\n.reg .pred %p; .reg .b32 %i, %n, %c, %t; .reg .b64 %in, %out, %o;\n{registers}\
         ld.param.u64 %in, [in]; ld.param.u64 %out, [out]; ld.param.u32 %n, [n];\n\
         mov.u32 %c, %ctaid.x; mov.u32 %t, %tid.x; mad.lo.u32 %i, %c, 128, %t;\n\
         setp.ge.u32 %p, %i, %n; @%p exit;\n\
         mul.wide.u32 %o, %i, {stride}; add.u64 %in, %in, %o; mul.wide.u32 %o, %i, 8; add.u64 %out, %out, %o;\n\
         {loads}{instruction} {};\nst.global.{result_type} [%out], %d;\nret;\n}}\n",
        names.join(", ")
    );
    let module = device.load(&ptx);
    let flat: Vec<u64> = rows.iter().flatten().copied().collect();
    let (input, output) = (device.upload(&flat), device.upload(&vec![0u64; rows.len()]));
    let blocks = rows.len().div_ceil(128) as u32;
    device.call(&module, "k", blocks, 128).args(&[input, output]).arg(rows.len() as u32).ok();
    let mask = if result_bytes == 8 { u64::MAX } else { (1 << (8 * result_bytes)) - 1 };
    device.download::<u64>(output, rows.len()).into_iter().map(|bits| bits & mask).collect()
}

/// Zeros, bounds, NaNs; the last six are halfway between two bf16 or two f16.
const SPECIAL_32: [u32; 28] = [
    0,
    0x8000_0000,
    1,
    0x8000_0001,
    0x007f_ffff,
    0x0080_0000,
    0x8080_0000,
    0x3f80_0000,
    0xbf80_0000,
    0x3f80_0001,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0xffc1_2345,
    0x7f80_0001,
    0x4b00_0000,
    0x4f00_0000,
    0x5f00_0000,
    0x477f_f000,
    0x3300_0000,
    0x3f80_8000,
    0x3f81_8000,
    0xbf80_8000,
    0x0000_8000,
    0x3f80_1000,
    0x3f80_3000,
];

fn random_32(count: usize) -> Vec<u32> {
    let mut state = 12345u64;
    let mut values = SPECIAL_32.to_vec();
    values.resize_with(count, || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u32
    });
    values
}

/// All pairs of special values, and random pairs.
fn pairs() -> Vec<[u32; 2]> {
    let values = random_32(600);
    let special = SPECIAL_32.iter().flat_map(|a| SPECIAL_32.iter().map(|b| [*a, *b]));
    let random = values.iter().zip(values.iter().rev()).map(|(a, b)| [*a, *b]);
    // Neighbours in magnitude, where cancellation happens.
    let near = values.iter().map(|a| [*a, a.wrapping_add(0x8000_0001)]);
    special.chain(random).chain(near).collect()
}

fn check_2(instruction: &str, ty: &str, expected: impl Fn(u32, u32) -> u32) {
    let pairs = pairs();
    let rows: Vec<Vec<u64>> = pairs.iter().map(|pair| pair.map(u64::from).to_vec()).collect();
    let results = evaluate(instruction, ty, &[ty, ty], &rows);
    for ([a, b], result) in pairs.into_iter().zip(results) {
        let expected = expected(a, b);
        assert_eq!(
            result as u32, expected,
            "{instruction} {a:#010x}, {b:#010x}: {result:#010x}, not {expected:#010x}"
        );
    }
}

/// A NaN result is the canonical one.
fn canonical(value: f32) -> u32 {
    if value.is_nan() { 0x7fff_ffff } else { value.to_bits() }
}

fn float_2(f: impl Fn(f32, f32) -> f32) -> impl Fn(u32, u32) -> u32 {
    move |a, b| canonical(f(f32::from_bits(a), f32::from_bits(b)))
}

fn flush(value: f32) -> f32 {
    if value.is_subnormal() { 0f32.copysign(value) } else { value }
}

#[test]
fn integers_wrap_and_saturate() {
    check_2("add.s32", "u32", u32::wrapping_add);
    check_2("sub.s32", "u32", u32::wrapping_sub);
    check_2("add.sat.s32", "u32", |a, b| (a as i32).saturating_add(b as i32) as u32);
    check_2("sub.sat.s32", "u32", |a, b| (a as i32).saturating_sub(b as i32) as u32);
    check_2("mul.lo.s32", "u32", u32::wrapping_mul);
    check_2("mul.hi.u32", "u32", |a, b| ((u64::from(a) * u64::from(b)) >> 32) as u32);
    check_2("mul.hi.s32", "u32", |a, b| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32);
    check_2("min.s32", "u32", |a, b| (a as i32).min(b as i32) as u32);
    check_2("max.u32", "u32", u32::max);
    check_2("shl.b32", "u32", |a, n| if n < 32 { a << n } else { 0 });
    check_2("shr.u32", "u32", |a, n| if n < 32 { a >> n } else { 0 });
    check_2("shr.s32", "u32", |a, n| ((a as i32) >> n.min(31)) as u32);
    check_2("div.u32", "u32", |a, b| a.checked_div(b).unwrap_or(u32::MAX));
    check_2("rem.u32", "u32", |a, b| a.checked_rem(b).unwrap_or(a));
    check_2("add.u16x2", "u32", |a, b| {
        let low = (a as u16).wrapping_add(b as u16);
        let high = ((a >> 16) as u16).wrapping_add((b >> 16) as u16);
        u32::from(high) << 16 | u32::from(low)
    });
}

#[test]
fn f32_rounds_to_nearest_and_makes_canonical_nans() {
    check_2("add.rn.f32", "u32", float_2(|a, b| a + b));
    check_2("sub.f32", "u32", float_2(|a, b| a - b));
    check_2("mul.rn.f32", "u32", float_2(|a, b| a * b));
    check_2("div.rn.f32", "u32", float_2(|a, b| a / b));
    check_2("add.rn.ftz.f32", "u32", float_2(|a, b| flush(flush(a) + flush(b))));
    check_2("mul.rn.ftz.f32", "u32", float_2(|a, b| flush(flush(a) * flush(b))));
    check_2("mul.sat.f32", "u32", |a, b| {
        let product = f32::from_bits(a) * f32::from_bits(b);
        // NaN and everything below zero, -0 included, is +0.
        if product > 0.0 { product.min(1.0).to_bits() } else { 0 }
    });
}

#[test]
fn directed_rounding_is_the_neighbour_on_the_right_side() {
    // In f64 the sum of two f32 of similar size is exact, and the product always.
    let directed = |down: bool| {
        move |exact: f64| {
            let near = exact as f32;
            match (down, f64::from(near) > exact, f64::from(near) < exact) {
                (true, true, _) => near.next_down(),
                (false, _, true) => near.next_up(),
                _ => near,
            }
        }
    };
    check_2("mul.rm.f32", "u32", float_2(move |a, b| directed(true)(f64::from(a) * f64::from(b))));
    check_2("mul.rp.f32", "u32", float_2(move |a, b| directed(false)(f64::from(a) * f64::from(b))));
    check_2(
        "mul.rz.f32",
        "u32",
        float_2(move |a, b| {
            let exact = f64::from(a) * f64::from(b);
            directed(exact > 0.0)(exact)
        }),
    );
}

#[test]
fn minimum_and_maximum_know_nan_and_signed_zero() {
    let pick = |maximum: bool, propagate: bool| {
        move |a: u32, b: u32| {
            let (x, y) = (f32::from_bits(a), f32::from_bits(b));
            if x.is_nan() && y.is_nan() || propagate && (x.is_nan() || y.is_nan()) {
                return 0x7fff_ffff;
            }
            if x.is_nan() || y.is_nan() {
                return if x.is_nan() { b } else { a };
            }
            // total_cmp puts -0 below +0.
            let less = x.total_cmp(&y).is_lt();
            if less != maximum { a } else { b }
        }
    };
    check_2("min.f32", "u32", pick(false, false));
    check_2("max.f32", "u32", pick(true, false));
    check_2("max.NaN.f32", "u32", pick(true, true));
}

#[test]
fn half_precision_rounds_once() {
    let f16_pair = |f: fn(f64, f64) -> f64| {
        move |a: u32, b: u32| {
            let (x, y) = (f16::from_bits(a as u16), f16::from_bits(b as u16));
            let result = f16::from_f64(f(x.to_f64(), y.to_f64()));
            u32::from(if result.is_nan() { 0x7fff } else { result.to_bits() })
        }
    };
    let bf16_pair = |f: fn(f64, f64) -> f64| {
        move |a: u32, b: u32| {
            let (x, y) = (bf16::from_bits(a as u16), bf16::from_bits(b as u16));
            let result = bf16::from_f64(f(x.to_f64(), y.to_f64()));
            u32::from(if result.is_nan() { 0x7fff } else { result.to_bits() })
        }
    };
    let low_halves = |instruction: &str, expected: &dyn Fn(u32, u32) -> u32| {
        let pairs = pairs();
        let rows: Vec<Vec<u64>> =
            pairs.iter().map(|p| p.map(|v| u64::from((v >> 7) as u16)).to_vec()).collect();
        let results = evaluate(instruction, "b16", &["b16", "b16"], &rows);
        for (row, result) in rows.iter().zip(results) {
            assert_eq!(
                result as u32,
                expected(row[0] as u32, row[1] as u32),
                "{instruction} {row:x?}: {result:#x}"
            );
        }
    };
    low_halves("mul.f16", &f16_pair(|a, b| a * b));
    low_halves("add.f16", &f16_pair(|a, b| a + b));
    low_halves("mul.bf16", &bf16_pair(|a, b| a * b));
}

#[test]
fn conversions_round_and_saturate() {
    let values = random_32(3000);
    let rows: Vec<Vec<u64>> = values.iter().map(|value| vec![u64::from(*value)]).collect();
    let check = |instruction: &str, result: &str, expected: &dyn Fn(f32) -> u64| {
        for (value, got) in values.iter().zip(evaluate(instruction, result, &["b32"], &rows)) {
            let value = f32::from_bits(*value);
            assert_eq!(got, expected(value), "{instruction} of {value:e}");
        }
    };
    check("cvt.rn.bf16.f32", "b16", &|v| {
        if v.is_nan() { 0x7fff } else { u64::from(bf16::from_f32(v).to_bits()) }
    });
    check("cvt.rn.f16.f32", "b16", &|v| {
        if v.is_nan() { 0x7fff } else { u64::from(f16::from_f32(v).to_bits()) }
    });
    check("cvt.rzi.s32.f32", "b32", &|v| u64::from(v as i32 as u32));
    check("cvt.rzi.u32.f32", "b32", &|v| u64::from(v as u32));
    check("cvt.rni.s32.f32", "b32", &|v| u64::from(v.round_ties_even() as i32 as u32));
    check("cvt.rmi.s64.f32", "b64", &|v| if v.is_nan() { 1 << 63 } else { v.floor() as i64 as u64 });
    check("cvt.f64.f32", "b64", &|v| f64::from(v).to_bits());
    check("cvt.sat.f32.f32", "b32", &|v| u64::from(if v > 0.0 { v.min(1.0).to_bits() } else { 0 }));
    check("cvt.rz.bf16.f32", "b16", &|v| if v.is_nan() { 0x7fff } else { u64::from(v.to_bits() >> 16) });
    check("cvt.rna.tf32.f32", "b32", &|v| {
        // Half a unit of the 10-bit fraction is added to the magnitude; the rest is cut off.
        u64::from(if v.is_nan() {
            0x7fff_ffff
        } else if v.is_infinite() {
            v.to_bits()
        } else {
            (v.to_bits() + 0x1000) & 0xffff_e000
        })
    });
    let as_integers = |instruction: &str, expected: &dyn Fn(u32) -> u64| {
        for (value, got) in values.iter().zip(evaluate(instruction, "b32", &["b32"], &rows)) {
            assert_eq!(got, expected(*value), "{instruction} of {value}");
        }
    };
    as_integers("cvt.rn.f32.s32", &|v| u64::from((v as i32 as f32).to_bits()));
    as_integers("cvt.rn.f32.u32", &|v| u64::from((v as f32).to_bits()));
    as_integers("cvt.sat.s8.s32", &|v| u64::from((v as i32).clamp(-128, 127) as u32));
    as_integers("cvt.u32.u8", &|v| u64::from(v & 0xff));
    as_integers("cvt.s32.s16", &|v| u64::from(v as i16 as u32));
}

#[test]
fn approximations_are_within_the_stated_error() {
    // ISA 9.7.3: the largest relative errors, as powers of two.
    type Exact = fn(f64) -> f64;
    let functions: [(&str, i32, Exact); 6] = [
        ("ex2.approx.f32", -22, f64::exp2),
        ("rcp.approx.f32", -23, |a| 1.0 / a),
        ("rsqrt.approx.f32", -22, |a| 1.0 / a.sqrt()),
        ("sqrt.approx.f32", -23, f64::sqrt),
        ("tanh.approx.f32", -11, f64::tanh),
        ("lg2.approx.f32", -22, f64::log2),
    ];
    let values: Vec<f32> = (0..2000).map(|i| 2.0 + i as f32 * 0.03).collect();
    let rows: Vec<Vec<u64>> = values.iter().map(|value| vec![u64::from(value.to_bits())]).collect();
    for (name, exponent, f) in functions {
        for (value, got) in values.iter().zip(evaluate(name, "b32", &["b32"], &rows)) {
            let (got, exact) = (f64::from(f32::from_bits(got as u32)), f(f64::from(*value)));
            assert!(
                (got - exact).abs() <= exact.abs() * f64::powi(2.0, exponent),
                "{name} of {value}: {got}, {exact}"
            );
        }
    }
}

/// `bfe` exactly as the ISA's pseudocode writes it, bit by bit.
fn extract(a: u32, position: u32, length: u32, signed: bool) -> u32 {
    let (position, length) = (position & 0xff, length & 0xff);
    let sign = if !signed || length == 0 { 0 } else { a >> (position + length - 1).min(31) & 1 };
    (0..32).fold(0, |d, i| {
        let bit = if i < length && position + i <= 31 { a >> (position + i) & 1 } else { sign };
        d | bit << i
    })
}

proptest! {
    #[test]
    fn bit_instructions(values in proptest::collection::vec(any::<[u32; 3]>(), 32)) {
        let values: Vec<[u32; 3]> = values.iter().map(|[a, b, c]| [*a, b % 40, c % 40]).collect();
        let rows: Vec<Vec<u64>> = values.iter().map(|row| row.map(u64::from).to_vec()).collect();
        let types = ["u32"; 3];
        for (row, got) in values.iter().zip(evaluate("bfe.u32", "u32", &types, &rows)) {
            prop_assert_eq!(got as u32, extract(row[0], row[1], row[2], false), "{:?}", row);
        }
        for (row, got) in values.iter().zip(evaluate("bfe.s32", "u32", &types, &rows)) {
            prop_assert_eq!(got as u32, extract(row[0], row[1], row[2], true), "{:?}", row);
        }
        for (row, got) in values.iter().zip(evaluate("shf.l.wrap.b32", "u32", &types, &rows)) {
            let both = u64::from(row[1]) << 32 | u64::from(row[0]);
            prop_assert_eq!(got as u32, (both << (row[2] & 31) >> 32) as u32);
        }
        for (row, got) in values.iter().zip(evaluate("mad.hi.s32", "u32", &types, &rows)) {
            let product = (i64::from(row[0] as i32) * i64::from(row[1] as i32)) >> 32;
            prop_assert_eq!(got as u32, (product as u32).wrapping_add(row[2]));
        }
    }

    #[test]
    fn fused_multiply_add_rounds_once(values in proptest::collection::vec(any::<[f32; 3]>(), 32)) {
        let rows: Vec<Vec<u64>> = values.iter().map(|row| row.map(|v| u64::from(v.to_bits())).to_vec()).collect();
        for ([a, b, c], got) in values.iter().zip(evaluate("fma.rn.f32", "u32", &["b32"; 3], &rows)) {
            prop_assert_eq!(got as u32, canonical(a.mul_add(*b, *c)));
        }
    }

    #[test]
    fn any_table_of_three_inputs(a: u32, b: u32, c: u32, table: u8) {
        let expected = (0..32).fold(0u32, |d, bit| {
            let index = (a >> bit & 1) << 2 | (b >> bit & 1) << 1 | (c >> bit & 1);
            d | u32::from(table >> index & 1) << bit
        });
        prop_assert_eq!(lop3(a, b, c, table), expected);
    }
}

/// One `lop3`; the table must be a constant of the text.
fn lop3(a: u32, b: u32, c: u32, table: u8) -> u32 {
    let device = Device::new();
    let ptx = format!(
        ".version 8.8\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 out)\n{{\n.reg .b32 %d; .reg .b64 %o;\n\
         ld.param.u64 %o, [out]; lop3.b32 %d, {a}, {b}, {c}, {table}; st.global.b32 [%o], %d; ret;\n}}\n"
    );
    let module = device.load(&ptx);
    let out = device.room::<u32>(1);
    device.call(&module, "k", 1, 1).arg(out).ok();
    device.download::<u32>(out, 1)[0]
}
