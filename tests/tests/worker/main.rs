//! Tests of the worker between a real Redis and a backend whose failures are scripted.

mod confirming;
mod drain;
mod fixture;
mod limits;
mod replay;
mod retry;
mod scripted;
