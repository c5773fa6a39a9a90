"""What the commands share: arguments, text for any terminal, progress, colours."""
