//! One target of the table, chosen by the variable `DECODER`.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("DECODER").expect("DECODER names a target of the table");
    decoders::target(&name).expect("the table has this target")
});

fuzz_target!(|bytes: &[u8]| (*TARGET)(bytes));
