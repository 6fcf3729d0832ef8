"""Tests of libstream: unit/ mirrors the modules, laws/ hold for all inputs, system/ uses files and processes."""
