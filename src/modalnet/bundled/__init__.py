"""Real models that come to a machine without the Hugging Face hub.

Each file of this room makes one model, and says where its weights come from and under which terms.
"""
