//! `nsctl up`: the single-host service.

pub(crate) mod settings;
