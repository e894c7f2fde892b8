"""Published checkpoints of the Wan 2.1 family: conversion, text worlds, and the parts that they need beside their file."""
