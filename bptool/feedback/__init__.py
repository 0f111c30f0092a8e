"""People's judgement of a model's answers: collecting it, agreement, and win rates."""
