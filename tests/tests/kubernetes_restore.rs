//! A real cluster around a restore: its workloads go down and up, and its ConfigMaps and Secrets are backed up
//! and put back. The agent has a service account with exactly the rights of `deploy/manifests/agent-roles.yaml`.
//!
//! Beyond the gate: suite `kubernetes`. Needs root; the cluster is built once per machine.

#[path = "kubernetes_restore/configs.rs"]
mod configs;
#[path = "kubernetes_restore/pods.rs"]
mod pods;
#[path = "kubernetes_restore/scene.rs"]
mod scene;
#[path = "kubernetes_restore/workloads.rs"]
mod workloads;
