"""The stages of training, in their order: autoencoder, body, pixels, face. Each goes on from the averaged weights before it."""
