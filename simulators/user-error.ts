/** Something the user can put right. Its message is the one line they read: what is wrong, and the way out. */
export class UserError extends Error {
  constructor(message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'UserError';
  }
}
