"""The commands of whisperctl, one module each."""
