//! Planner support.
